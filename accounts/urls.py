from allauth.account.urls import urlpatterns as allauth_urls
from django.urls import path
from django.views.decorators.cache import never_cache

from accounts import views

for pattern in allauth_urls:
    pattern.callback = never_cache(pattern.callback)

urlpatterns = [
    path("profile/", views.profile, name="profile"),
    # These five stand before allauth's, at the same addresses and by the same names.
    path("logout/", views.logout, name="account_logout"),
    path("confirm-email/", views.confirm_email, name="account_email_verification_sent"),
    path("login/code/", views.request_login_code, name="account_request_login_code"),
    path("login/code/confirm/", views.confirm_login_code, name="account_confirm_login_code"),
    path(
        "password/reset/confirm/",
        views.confirm_password_reset,
        name="account_confirm_password_reset_code",
    ),
    *allauth_urls,
]
