"""A flow before it is sent: what it takes, what is refused, and in which words. Connects to nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from heavyq.config.values import Dedup
from heavyq.errors import BadValue, PayloadError, PayloadTooLarge, UnknownOption
from heavyq.queue.flow import Flow
from heavyq.queue.model import Model
from heavyq.queue.queue import Queue
from tests.support.fresh import forget_declarations

if TYPE_CHECKING:
    from collections.abc import Callable

# Nobody listens there: what is found wrong before anything is sent never gets so far.
NOWHERE = "redis://127.0.0.1:1"


class Video(Model):
    video_id: str


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_declarations(monkeypatch)


@pytest.fixture
def videos() -> Queue[Video, Any]:
    return Queue("videos", payload=Video, connection=NOWHERE, max_payload=100)


@pytest.fixture
def courses() -> Queue:
    return Queue("courses", connection=NOWHERE)


def refused(make: Callable[[], Any], error: type[Exception]) -> str:
    with pytest.raises(error) as caught:
        make()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_flow_is_made_of_a_queue_a_name_and_a_payload(videos: Any, courses: Any) -> None:
    thumbs = videos.named("thumbnail", payload=Video)
    below = [Flow(videos, Video(video_id="1")), Flow(thumbs, {"video_id": "2"})]
    assert repr(Flow(courses, "complete", {}, children=below)) == "<Flow of 'complete' in queue 'courses', 2 children>"
    assert [repr(flow) for flow in below] == ["<Flow of 'process' in queue 'videos'>", "<Flow of 'thumbnail' in queue 'videos'>"]  # fmt: skip # noqa: E501


def test_what_is_no_flow_is_refused_where_it_is_written(videos: Any, courses: Any) -> None:
    assert "a Queue is expected" in refused(lambda: Flow("videos", {}), BadValue)
    assert refused(lambda: Flow(courses, {}, children=[{"a": 1}]), BadValue) == (
        "Flow in queue 'courses': children: {'a': 1} is no Flow"
    )
    assert "takes a payload, or a name and a payload, and not 0 values" in refused(lambda: Flow(courses), TypeError)
    assert "and not 3 values" in refused(lambda: Flow(courses, "a", {}, {}), TypeError)
    thumbs = videos.named("thumbnail")
    assert "takes a payload, and not 2 values" in refused(lambda: Flow(thumbs, "a", {}), TypeError)


def test_options_are_read_where_they_are_written(courses: Any) -> None:
    assert refused(lambda: Flow(courses, {}, dellay="5m"), UnknownOption) == (
        "Flow in queue 'courses' has no option 'dellay' (did you mean \"delay\"?)"
    )
    assert "delay: 'x' is no duration" in refused(lambda: Flow(courses, {}, delay="x"), BadValue)
    both: dict[str, Any] = {"fail_parent_on_failure": True, "ignore_dependency_on_failure": True}
    assert "only one of them can hold" in refused(lambda: Flow(courses, {}, **both), BadValue)


def test_a_payload_that_does_not_fit_names_the_job_of_the_flow(videos: Any, courses: Any) -> None:
    children = [Flow(videos, Video(video_id="1")), Flow(videos, {"video": "2"})]
    assert refused(Flow(courses, {}, children=children).add, PayloadError).startswith(
        "Flow in queue 'courses', job 2 (in queue 'videos'): the payload of queue 'videos' does not fit Video: video_id"
    )
    large = Flow(courses, {}, children=[Flow(videos, Video(video_id="x" * 200))])
    assert "job 1 (in queue 'videos'): the payload has 214 bytes" in refused(large.add, PayloadTooLarge)


@pytest.mark.parametrize("option", [{"deduplication": "x"}, {"deduplication": Dedup("x", keep_last_if_active=True)}])
def test_a_job_with_family_is_not_deduplicated(courses: Any, option: dict[str, Any]) -> None:
    words = "a job that has a parent or children cannot be deduplicated"
    assert words in refused(Flow(courses, {}, children=[Flow(courses, {}, **option)]).add, BadValue)
    assert words in refused(Flow(courses, {}, children=[Flow(courses, {})], **option).add, BadValue)
    always = Queue("always", connection=NOWHERE, **option)
    assert words in refused(Flow(courses, {}, children=[Flow(always, {})]).add, BadValue)


def test_only_the_top_of_a_flow_names_another_parent(courses: Any) -> None:
    class Other:
        id = "p1"

    flow = Flow(courses, {}, children=[Flow(courses, {}, parent=Other())])
    assert refused(flow.add, BadValue) == (
        "Flow in queue 'courses', job 1 (in queue 'courses'): parent: the job's parent is the one above it in the flow"
    )
    assert "is no job: give the running one" in refused(Flow(courses, {}, parent=Other()).add, BadValue)


def test_an_id_stands_in_one_place_of_a_flow(courses: Any, videos: Any) -> None:
    def one(*children: Flow) -> Flow:
        return Flow(courses, {}, job_id="one", children=children)

    words = "job_id 'one' stands in two places of the flow: it has one parent"
    assert words in refused(one(one()).add, BadValue)
    assert words in refused(one(Flow(courses, {}, children=[one()])).add, BadValue)
    assert words in refused(Flow(courses, {}, children=[one(), Flow(courses, {}, children=[one()])]).add, BadValue)
