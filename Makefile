# Everything starts here. `make run` and `make test` need python3, make and a network; what else
# they need they install, into .venv where they can.
PYTHON ?= python3

.PHONY: run test drill bench lint screenshots postman

# The site with demo data. PORT=8001 HOST=0.0.0.0 make run
run:
	@exec $(PYTHON) booking_site/bootstrap.py run

# Every test. make test ARGS="-k race -x"
test:
	@exec $(PYTHON) booking_site/bootstrap.py test $(ARGS)

# How fast it is, beside its limits: bench/README.md. make bench QUICK=1, make bench ONLY="home refuse"
bench:
	@exec $(PYTHON) booking_site/bootstrap.py bench $(if $(QUICK),--quick) $(if $(ONLY),--only $(ONLY))

# Faults and size at length, in about ten minutes. make drill ARGS="races --rounds 50"
drill:
	@exec $(PYTHON) booking_site/bootstrap.py drill $(ARGS)

# What the gate checks beside the tests.
lint:
	@$(PYTHON) booking_site/bootstrap.py install
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/djlint templates --lint --quiet
	.venv/bin/yamllint --strict compose.yaml
	.venv/bin/hadolint Dockerfile
	DJANGO_SETTINGS_MODULE=booking_site.tests.settings .venv/bin/python manage.py makemigrations --check
	ENV_FILE=/dev/null SITE_URL=https://book.example.org DATABASE_URL=postgres://localhost/none \
	EMAIL_URL=smtp://localhost:25 \
	SECRET_KEY=$$(.venv/bin/python -c 'import secrets; print(secrets.token_urlsafe(50))') \
	.venv/bin/python manage.py check --deploy --fail-level WARNING

# The pictures of the README, taken of the site as it is.
screenshots:
	@exec $(PYTHON) booking_site/bootstrap.py screenshots

# The Postman collection of docs/, made from the API's own document.
postman:
	@exec $(PYTHON) booking_site/bootstrap.py postman
