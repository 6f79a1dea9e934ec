"""The site's pages and one that answers “ok”, behind the whole middleware."""

from django.http import HttpRequest, HttpResponse
from django.urls import path

from booking_site import urls


def empty(request: HttpRequest) -> HttpResponse:
    return HttpResponse("ok")


urlpatterns = [path("empty/", empty), *urls.urlpatterns]
handler429, handler500 = urls.handler429, urls.handler500
