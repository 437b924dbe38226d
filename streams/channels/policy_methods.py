"""The methods of a policy that hold its rules, and a check that a class overrides them without contradictions."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

# By default each method calls one that stands before it.
READ_METHODS = ("can_subscribe", "acan_subscribe", "denied_channels", "adenied_channels")
PUBLISH_METHODS = ("can_publish", "acan_publish", "denied_publish_channels", "adenied_publish_channels")


def is_builtin(policy: type) -> bool:
    """Return True for BasePolicy and DefaultPolicy, whose methods adapt to what a subclass overrides."""
    return policy.__module__ == "streams.policies"


def contradictions(policy: type) -> Iterator[str]:
    """Yield a text with the remedy for each method of a policy class that could answer differently than the others.

    A class that overrides some of READ_METHODS, or of PUBLISH_METHODS, must also override the sync twin of each async
    method that it overrides, and each later method of the tuple that a base class has overridden. Otherwise some
    callers would get the base class's answer. A sync method must not be `async def`: a coroutine counts as True.
    """
    for position, each in enumerate(policy.__mro__):
        for names in (READ_METHODS, PUBLISH_METHODS):
            own = [name for name in names if name in vars(each)]
            for name in own:
                if f"a{name}" in names and inspect.iscoroutinefunction(getattr(each, name)):
                    yield (
                        f"{each.__qualname__}.{name} is an async method, but must be a sync one. Rename it to a{name} "
                        f"and override {name} as well."
                    )
            for name in names:
                if not own or name in own:
                    continue
                owner = next((base for base in policy.__mro__[position:] if name in vars(base)), policy)
                lacks_twin = f"a{name}" in own and not is_builtin(each)
                is_hidden = names.index(name) > names.index(own[0]) and not is_builtin(owner)
                if lacks_twin or is_hidden:
                    yield (
                        f"{each.__qualname__} overrides {' and '.join(own)}, but inherits {name} from "
                        f"{owner.__qualname__}, which can answer differently. Override {name} in "
                        f"{each.__qualname__} as well."
                    )
