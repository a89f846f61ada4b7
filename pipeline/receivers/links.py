"""A template -> the address of a page about an incident. Light: the settings look at templates too."""

import re
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from pipeline.stages.alerts import Alert

PLACES = ("stream", "series", "incident", "opened_ms", "event_ms")
"""What a template may hold of an alert, in braces."""
PLACE = re.compile(r"\{(\w*)\}")
_LONGEST = 200
"""A name of a thousand characters may be twelve thousand in an address, which nobody takes."""


def link_of(template: str | None, alert: "Alert") -> str | None:
    """Return the address, with names as an address can hold them; None where there is no template."""
    if template is None:
        return None
    places = {place: quote(str(getattr(alert, place))[:_LONGEST], safe="") for place in PLACES}
    return PLACE.sub(lambda found: places[found[1]], template)
