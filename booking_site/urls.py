from django.contrib import admin
from django.contrib.auth.views import LoginView, LogoutView
from django.urls import path

from booking_site import views as site
from bookings import views as bookings
from slots import views as slots

admin.site.site_header = admin.site.site_title = "Holdfast office"
admin.site.index_title = "Office"

urlpatterns = [
    path("", slots.home, name="home"),
    path("shows/", slots.shows, name="shows"),
    path("shows/<int:show_id>/", slots.show, name="show"),
    path("doctors/", slots.doctors, name="doctors"),
    path("doctors/<int:doctor_id>/", slots.doctor, name="doctor"),
    path("slots/<int:slot_id>/", slots.slot, name="slot"),
    path("slots/<int:slot_id>/seats", slots.seat_grid, name="seat_grid"),
    path("slots/<int:slot_id>/hold", bookings.hold, name="hold"),
    path("bookings/", bookings.my_bookings, name="my_bookings"),
    path("bookings/<uuid:booking_id>/", bookings.booking, name="booking"),
    path("bookings/<uuid:booking_id>/confirm", bookings.confirm, name="confirm"),
    path("bookings/<uuid:booking_id>/extend", bookings.extend, name="extend"),
    path("bookings/<uuid:booking_id>/cancel", bookings.cancel, name="cancel"),
    path(
        "login/",
        LoginView.as_view(template_name="accounts/login.html", redirect_authenticated_user=True),
        name="login",
    ),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("admin/", admin.site.urls),
    path("favicon.ico", site.favicon),
    path("health", site.health_ready),
    path("health/live", site.health_live),
    path("health/ready", site.health_ready),
]
handler500 = "booking_site.views.server_error"
