"""URLs of a site that registers the pages of Streams on its own AdminSite."""

from django.contrib.admin import AdminSite
from django.urls import include, path

from streams import admin, models

desk = AdminSite("desk")
desk.register(models.Broadcast, admin.BroadcastAdmin)
desk.register(models.ChannelSettings, admin.ChannelAdmin)
desk.register(models.Message, admin.MessageAdmin)
desk.register(models.Monitor, admin.MonitorAdmin)
desk.register(models.Node, admin.NodeAdmin)

urlpatterns = [path("desk/", desk.urls), path("events/", include("streams.urls"))]
