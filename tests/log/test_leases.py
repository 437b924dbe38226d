"""Leases: there is one holder at a time, which keeps the lease while it renews it."""

from __future__ import annotations

import datetime

import pytest
from django.utils import timezone

from streams.log import leases
from streams.models import Lease

pytestmark = pytest.mark.django_db(transaction=True)


def let_expire(seconds: float = 1) -> None:
    Lease.objects.update(expires_at=timezone.now() - datetime.timedelta(seconds=seconds))


def seconds_left() -> float:
    expires_at = Lease.objects.get().expires_at
    assert expires_at is not None
    return (expires_at - timezone.now()).total_seconds()


def test_one_holder_has_the_lease() -> None:
    assert leases.acquire("tidy", "a", 60)
    assert not leases.acquire("tidy", "b", 60)
    assert leases.acquire("tidy", "a", 60)
    assert leases.acquire("other", "b", 60)


def test_expired_lease_is_free() -> None:
    assert leases.acquire("tidy", "a", 60)
    let_expire()
    assert leases.acquire("tidy", "b", 60)
    assert not leases.renew("tidy", "a", 60)
    assert not leases.acquire("tidy", "a", 60)


def test_renewed_lease_lasts_from_then_on() -> None:
    leases.acquire("tidy", "a", 60)
    assert leases.renew("tidy", "a", 600)
    assert 300 < seconds_left() <= 601


def test_lease_that_expired_untaken_is_renewed() -> None:
    leases.acquire("tidy", "a", 60)
    let_expire()
    assert leases.renew("tidy", "a", 60)
    assert not leases.acquire("tidy", "b", 60)


def test_released_lease_is_free_at_once_or_after_a_rest() -> None:
    leases.acquire("tidy", "a", 60)
    assert leases.release("tidy", "a")
    assert leases.acquire("tidy", "b", 60)
    assert not leases.release("tidy", "a")
    assert leases.release("tidy", "b", rest_seconds=60)
    assert not leases.acquire("tidy", "b", 60)
    let_expire()
    assert leases.acquire("tidy", "b", 60)


def test_lease_that_lasts_longer_than_any_counts_as_free() -> None:
    """The database's clock was fast when the lease was taken, and was corrected later."""
    leases.acquire("tidy", "a", 60)
    Lease.objects.update(expires_at=timezone.now() + datetime.timedelta(hours=5))
    assert not leases.acquire("tidy", "b", 60, longest=6 * 3600)
    assert leases.acquire("tidy", "b", 60, longest=3600)
    assert seconds_left() < 61


def test_holders_have_names_of_their_own() -> None:
    assert leases.new_holder() != leases.new_holder()
    assert len(leases.new_holder()) <= Lease._meta.get_field("holder").max_length
