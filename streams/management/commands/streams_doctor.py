"""manage.py streams_doctor [URL]: find out what is wrong with a site, from inside and through its public URL."""

from __future__ import annotations

from django.core.management.base import BaseCommand

from streams.doctor.site import check_site


class Command(BaseCommand):
    requires_system_checks = []

    def handle(self, *args, **options):
        for f in check_site():
            self.stdout.write(f"{f.level.name:8} {f.check:18} {f.text}\n      -> {f.remedy}")
