from django.contrib import admin
from django.urls import include, path, re_path
from mailer.models import DontSendEntry, Message, MessageLog

from booking_site import problems
from booking_site import views as site
from booking_site.api import api
from bookings import outcomes
from bookings import views as bookings
from slots import views as slots

# Queued mails are pickled: whoever may edit one there could run code here.
admin.site.unregister([DontSendEntry, Message, MessageLog])
admin.site.site_header = admin.site.site_title = "Holdfast office"
admin.site.index_title = "Office"

urlpatterns = [
    # First, as each is tried in turn.
    path("api/v1/", api.urls),
    re_path(r"^api\b", problems.nothing_here, name="api_nothing_here"),
    path("", slots.home, name="home"),
    path("shows/", slots.shows, name="shows"),
    path("shows/<int:show_id>/", slots.show, name="show"),
    path("doctors/", slots.doctors, name="doctors"),
    path("doctors/<int:doctor_id>/", slots.doctor, name="doctor"),
    path("slots/<int:slot_id>/", slots.slot, name="slot"),
    path("slots/<int:slot_id>/seats", slots.seat_grid, name="seat_grid"),
    path("slots/<int:slot_id>/live", slots.slot_live, name="slot_live"),
    path("live", slots.live_lists, name="live"),
    path("slots/<int:slot_id>/hold", bookings.hold, name="hold"),
    path("bookings/", bookings.my_bookings, name="my_bookings"),
    path("bookings/past/", bookings.my_bookings, {"group": "past"}, name="past_bookings"),
    path(
        "bookings/cancelled/",
        bookings.my_bookings,
        {"group": "cancelled"},
        name="cancelled_bookings",
    ),
    path("bookings/outcome", outcomes.of_hold, name="hold_outcome"),
    path("bookings/<any_case_uuid:booking_id>/outcome", outcomes.of_change, name="outcome"),
    path("bookings/<any_case_uuid:booking_id>/", bookings.booking, name="booking"),
    path("bookings/<any_case_uuid:booking_id>/confirm", bookings.confirm, name="confirm"),
    path("bookings/<any_case_uuid:booking_id>/extend", bookings.extend, name="extend"),
    path("bookings/<any_case_uuid:booking_id>/cancel", bookings.cancel, name="cancel"),
    path("bookings/<any_case_uuid:booking_id>/move", bookings.move, name="move"),
    path(
        "bookings/<any_case_uuid:booking_id>/move/<int:slot_id>", bookings.move_to, name="move_to"
    ),
    path("accounts/", include("accounts.urls")),
    path("admin/", admin.site.urls),
    path("favicon.ico", site.favicon, name="favicon"),
]
handler429 = "accounts.views.too_many_requests"  # asked for by allauth
handler500 = "booking_site.views.server_error"
