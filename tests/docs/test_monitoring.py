"""The pages on monitoring and metrics, the dashboard and the alert rules name the metrics and log fields that exist."""

from __future__ import annotations

import json
import logging
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from streams import metrics
from streams.runtime import readings
from streams.telemetry import log_fields, recorder
from streams.telemetry.error_codes import CODES
from tests.support.services import missing
from tests.support.sites import ROOT

pytestmark = pytest.mark.once

FOLDER = ROOT / "docs" / "operations" / "monitoring"
METRICS = (ROOT / "docs" / "operations" / "metrics.md").read_text()
PAGE = (ROOT / "docs" / "operations" / "monitoring.md").read_text()
DASHBOARD = json.loads((FOLDER / "grafana.json").read_text())
ALERTS = (FOLDER / "alerts.yml").read_text()

# What each label can have as its value. `le` is Prometheus' own; `job` and `instance` come from the scrape.
VALUES: dict[str, set[str]] = {
    "source": set(recorder.SOURCES),
    "code": {*CODES, "other"},
    "kind": {"live", "replay"},
    "found_by": set(recorder.FINDERS),
    "start": set(recorder.REPLAY_STARTS),
    "transaction": {"own", "caller"},
}
SCRAPE_LABELS = {"job", "instance"}


def existing() -> dict[str, tuple[str, set[str]]]:
    """Return {name: (type, labels)} for each metric, with the suffix of counters."""
    found = {}
    for metric in vars(metrics).values():
        if hasattr(metric, "_labelnames"):
            suffix = "_total" if metric._type == "counter" else ""
            found[metric._name + suffix] = (metric._type, set(metric._labelnames))
    for reading in readings.registered():
        found[f"streams_{reading.name}"] = ("gauge", {reading.label} - {""})
    found["streams_database_up"] = ("gauge", set())
    return found


def expressions() -> list[str]:
    """Return the expressions of the dashboard and of the alert rules."""
    shown = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
    return shown + re.findall(r"^ +expr: (.+)$", ALERTS, re.M)


def metric_of(series: str) -> str:
    """Return the metric of a series' name: a histogram has three."""
    base = re.sub(r"_(bucket|sum|count)$", "", series)
    return base if base in existing() and existing()[base][0] == "histogram" else series


def used() -> set[str]:
    return {metric_of(name) for text in expressions() for name in re.findall(r"\bstreams_\w+", text)}


# --- The dashboard and the rules --------------------------------------------------------------------------------------


def test_expressions_name_existing_metrics() -> None:
    assert len(expressions()) > 30
    assert used() - existing().keys() == set()


def test_every_metric_is_on_the_dashboard() -> None:
    shown = json.dumps(DASHBOARD)
    assert {name for name in existing() if name not in shown} == set()


def test_expressions_name_existing_labels_and_values() -> None:
    states = {"streams_notifier_processes": set(recorder.NOTIFIER_STATES), "streams_generations": {"queued", "running"}}
    reasons = {
        "streams_ended_streams_total": set(recorder.END_REASONS),
        "streams_resets_total": set(recorder.RESET_REASONS),
        "streams_publish_failures_total": set(recorder.PUBLISH_FAILURES),
    }
    for text in expressions():
        names = {metric_of(name) for name in re.findall(r"\bstreams_\w+", text)}
        labels = set().union(*(existing()[name][1] for name in names))
        grouped = {label for group in re.findall(r"\bby \(([^)]+)\)", text) for label in group.split(", ")}
        assert grouped <= labels | {"le"}, text
        for name, matchers in re.findall(r"\b(streams_\w+)\{([^}]*)\}", text):
            for label, pattern in re.findall(r'(\w+)=~?"([^"]*)"', matchers):
                if label in SCRAPE_LABELS:
                    continue
                assert label in existing()[metric_of(name)][1], text
                values = VALUES.get(label) or states.get(metric_of(name)) or reasons[metric_of(name)]
                for part in pattern.split("|"):
                    assert [value for value in values if re.fullmatch(part, value)], f"{part} in {text}"


def test_dashboard_can_be_imported() -> None:
    """Grafana needs a title, a data source that the user chooses, and panels that do not overlap."""
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert [each["name"] for each in DASHBOARD["templating"]["list"]] == ["datasource", "job"]
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & own
        assert place["x"] + place["w"] <= 24
        cells |= own
        for target in panel.get("targets", ()):
            assert target["datasource"]["uid"] == "${datasource}"


@pytest.fixture
def promtool() -> Any:
    program = shutil.which("promtool") or missing("promtool", "prometheus")

    def run(*args: object) -> None:
        done = subprocess.run([program, *map(str, args)], text=True, capture_output=True)
        assert done.returncode == 0, done.stdout + done.stderr

    return run


def test_rules_are_valid_and_fire_when_they_should(promtool: Any) -> None:
    promtool("check", "rules", FOLDER / "alerts.yml")
    promtool("test", "rules", ROOT / "tests" / "docs" / "alerts.test.yml")


def test_expressions_of_the_dashboard_are_valid(promtool: Any, tmp_path: Path) -> None:
    """They become recording rules, because promtool reads nothing else."""
    rules = [
        {"record": f"shown:{number}", "expr": text.replace("$__rate_interval", "5m").replace("$job", ".*")}
        for number, text in enumerate(expressions())
    ]
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", file)


def test_example_configuration_is_valid(promtool: Any, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a-token-of-Prometheus-1")
    text = (FOLDER / "prometheus.yml").read_text().replace("/etc/prometheus/streams-token", f"{tmp_path}/token")
    (tmp_path / "prometheus.yml").write_text(text)
    shutil.copy(FOLDER / "alerts.yml", tmp_path)
    promtool("check", "config", tmp_path / "prometheus.yml")


# --- The page ---------------------------------------------------------------------------------------------------------


def test_page_lists_every_metric_with_type_and_labels() -> None:
    rows = re.findall(r"^\| `(streams_\w+)` \| (\w+) \|([^|]*)\|", METRICS, re.M)
    assert {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows} == existing()


def test_page_lists_every_alert() -> None:
    alerts = re.findall(r"- alert: (\w+)", ALERTS)
    assert len(alerts) > 10
    assert [name for name in alerts if f"`{name}`" not in METRICS] == []


def test_page_lists_every_log_event_and_field() -> None:
    sources = "\n".join(path.read_text() for path in (ROOT / "streams").rglob("*.py"))
    calls = re.findall(r'\bfields\((event="[^"]+"[^)]*)\)', sources)
    events = {re.findall(r'event="([^"]+)"', call)[0] for call in calls}
    section = PAGE.partition("### Fields of log records")[2].partition("\n## ")[0]
    firsts = " ".join(line.split("|")[1] for line in section.splitlines() if line.startswith("| `"))
    listed = set(re.findall(r"`([\w-]+)`", firsts))
    assert listed == events | {f"streams_{name}" for name in log_fields.Fields.__annotations__}


def test_formatter_of_the_page_writes_json(caplog: pytest.LogCaptureFixture) -> None:
    code = next(block for block in re.findall(r"```python\n(.*?)```", PAGE, re.S) if "logging.Formatter" in block)
    space: dict[str, Any] = {}
    exec(code, space)
    with caplog.at_level(logging.INFO, "streams"):
        extra = log_fields.fields(event="stream-cut", reason="slow", seconds=30.0)
        try:
            raise LookupError("of a test")
        except LookupError:
            logging.getLogger("streams").info("Cut a %s.", "stream", extra=extra, exc_info=True)
    entry = json.loads(space["JSONFormatter"]().format(caplog.records[0]))
    assert entry["message"] == "Cut a stream."
    assert (entry["level"], entry["logger"]) == ("INFO", "streams")
    assert (entry["streams_event"], entry["streams_reason"], entry["streams_seconds"]) == ("stream-cut", "slow", 30.0)
    assert "LookupError: of a test" in entry["exception"]
