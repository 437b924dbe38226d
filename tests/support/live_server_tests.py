"""Tests of a site with a live server, as users write them. They run with Django's runner and with pytest."""

from __future__ import annotations

import json
import os
import threading
import unittest
import urllib.request
from unittest import mock

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import get_user_model
from django.db import connections
from playwright.sync_api import sync_playwright

from streams import apublish, publish
from streams.models import Message
from streams.testing import (
    StreamClient,
    StreamNotOpened,
    StreamsLiveServerTestCase,
    SyncStreamClient,
    assert_published,
)
from tests.system.browser.browsers import CHROMIUM, CHROMIUM_OPTIONS


class LiveServerTests(StreamsLiveServerTestCase):
    def test_events_arrive_and_are_replayed(self):
        with SyncStreamClient(self.live_server_url, "/events/news/") as stream:
            stream.expect_nothing()
            publish("news", "one")
            assert stream.next().data == "one"
            stream.close()
            publish("news", "two")
            stream.reconnect()
            publish("news", "three")
            assert [event.data for event in stream.take(2)] == ["two", "three"]
            stream.expect_nothing()
            assert stream.opened == 2
            assert stream.last_event_id == str(Message.objects.latest("pk").position)

    def test_user_is_logged_in(self):
        user = get_user_model().objects.create(username="ada")
        path = f"/events/user.{user.pk}/"
        with pytest.raises(StreamNotOpened) as raised, SyncStreamClient(self.live_server_url, path):
            pass
        assert raised.value.code == "forbidden"
        with SyncStreamClient(self.live_server_url, path, user=user) as stream:
            publish(f"user.{user.pk}", "for you")
            assert stream.next().data == "for you"

    def test_views_of_the_server_publish(self):
        with assert_published("news", "of a view"), SyncStreamClient(self.live_server_url, "/events/news/") as stream:
            urllib.request.urlopen(f"{self.live_server_url}/test/response/publish/?data=of%20a%20view").close()
            assert stream.next().data == "of a view"

    def test_threads_publish(self):
        def work():
            publish("news", "of a thread")
            connections.close_all()

        with SyncStreamClient(f"{self.live_server_url}/events/news/") as stream:
            thread = threading.Thread(target=work)
            thread.start()
            assert stream.next().data == "of a thread"
            thread.join()

    async def test_async_tests_read_too(self):
        async with StreamClient(self.live_server_url, "/events/news/") as stream:
            with assert_published("news", "hello"):
                await sync_to_async(publish)("news", "hello")
            assert (await stream.next()).data == "hello"
            await stream.expect_nothing()

    def test_streams_that_end_are_opened_again(self):
        with SyncStreamClient(self.live_server_url, "/test/response/numbers/?n=2") as stream:
            assert [event.data for event in stream.take(3)] == ["0", "1", "0"]

    def test_static_files_are_served(self):
        with urllib.request.urlopen(f"{self.live_server_url}/static/admin/css/base.css") as response:
            assert response.status == 200

    @pytest.mark.filterwarnings("ignore::DeprecationWarning:playwright")
    @unittest.skipUnless(CHROMIUM, "Chromium is missing")
    @mock.patch.dict(os.environ, {"DJANGO_ALLOW_ASYNC_UNSAFE": "true"})  # Playwright runs an event loop in this thread
    def test_browser_reads_the_stream(self):
        with sync_playwright() as playwright:
            page = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_OPTIONS).new_page()
            page.goto(f"{self.live_server_url}/static/admin/css/base.css")
            page.evaluate(
                "new Promise((opened) => { window.source = new EventSource('/events/news/'); window.got = [];"
                " source.onmessage = (event) => got.push(event.data); source.onopen = opened; })"
            )
            with assert_published("news", "hello"):
                publish("news", "hello")
            page.wait_for_function("got.length === 1")
            assert page.evaluate("got") == ["hello"]
            with SyncStreamClient(self.live_server_url, "/events/news/?replay=1") as stream:
                assert stream.next().data == "hello"

    def test_stream_is_left_open_at_the_end(self):
        type(self).left_open = SyncStreamClient(self.live_server_url, "/events/news/").__enter__()


def test_fixtures(streams_live_server, streams_published, streams_travel):
    with SyncStreamClient(streams_live_server, "/events/news/") as stream:
        publish("news", {"a": 1})
        assert json.loads(stream.next().data) == {"a": 1}
    [message] = streams_published("news", {"a": 1})
    streams_travel(days=2)
    assert (publish("news", "later").created_at - message.created_at).days in (1, 2)


async def test_client_fixture(transactional_db, streams_client):
    async with streams_client("/events/news/") as stream:
        await apublish("news", "hello")
        assert (await stream.next()).data == "hello"
