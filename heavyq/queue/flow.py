"""`Flow`: a tree of jobs, added all or none. A parent runs when its children are done.

Owns the tree: its checks, its ids, its order. Everything is checked before anything is sent. Each of its jobs is
drafted as any other add; nothing here knows a connection.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Generic, final, overload

from typing_extensions import TypeVar, Unpack

from heavyq.bullmq.ops.close_flow import close_flow
from heavyq.bullmq.ops.find import find
from heavyq.bullmq.parent import Parent
from heavyq.config.jobs import job_settings, read_job_options
from heavyq.config.table import JobOptions
from heavyq.errors import BadValue, HasAnotherParent, HeavyqError, NoSuchParent, PayloadError
from heavyq.linux.clock import epoch_ms
from heavyq.queue.adding import DEFAULT_NAME, Draft, Made, ask, draft
from heavyq.queue.ahandle import AsyncJobHandle
from heavyq.queue.handle import JobHandle
from heavyq.queue.named import NamedQueue
from heavyq.queue.queue import Queue
from heavyq.queue.talk import Atomic, Talk, run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from heavyq.bullmq.keys import QueueKey
    from heavyq.bullmq.op import Op
    from heavyq.queue.link import QueueLink
    from heavyq.queue.snapshot import Snapshot

P = TypeVar("P", default=dict[str, Any])
R = TypeVar("R", default=Any)

_NAMED: Final = 2  # (name, payload)


@dataclass(frozen=True, slots=True)
class FlowNode(Generic[P, R]):
    """A job of a flow that was added, and those that it waits for, in the order in which they were given."""

    job: JobHandle[P, R]
    children: tuple[FlowNode[Any, Any], ...]


@final
class Flow(Generic[P, R]):
    """A job and the jobs that it waits for, each of them a flow too, in any queues of one Redis.

    queue: a Queue, or one seen through a job name. name: the job's, "process" without it. children: the flows below.
    options: of this one job. What a child's failure for good does to its parent is an option of the child:
    `fail_parent_on_failure` and its kin; without one of them the parent waits until the child is retried or removed.
    Raises UnknownOption (a TypeError), BadValue (a ValueError).
    """

    @overload
    def __init__(
        self,
        queue: Queue[P, R] | NamedQueue[P, R],
        payload: P,
        /,
        *,
        children: Iterable[Flow[Any, Any]] = (),
        **options: Unpack[JobOptions],
    ) -> None: ...
    @overload
    def __init__(
        self,
        queue: Queue[P, R],
        name: str,
        payload: P,
        /,
        *,
        children: Iterable[Flow[Any, Any]] = (),
        **options: Unpack[JobOptions],
    ) -> None: ...
    def __init__(self, queue: Any, /, *what: Any, children: Iterable[Flow[Any, Any]] = (), **options: Any) -> None:
        link, name, payload = _job_of(queue, what)
        where = f"Flow in queue {link.name!r}"
        read = read_job_options(options, where=where)
        if not isinstance(children, Iterable):
            raise BadValue(f"{where}: children is a list of flows, and not {children!r}")
        self._wanted = _Wanted(link, name, payload, read, where, tuple(_below(child, where) for child in children))

    def __repr__(self) -> str:
        wanted = self._wanted
        below = f", {len(wanted.children)} children" if wanted.children else ""
        return f"<Flow of {wanted.name!r} in queue {wanted.link.name!r}{below}>"

    def add(self) -> FlowNode[P, R]:
        """Add all the jobs, or none, in one transaction; of the levels from the top down, so they wait in that order.

        A job without a `job_id` gets a UUID. One whose `job_id` is in its queue already is left as it is, and its
        parent waits for it all the same, unless it is the child of another job.
        Raises as `Queue.add` before anything is sent; NoSuchParent if the job that the top names as `parent` is not
        there, HasAnotherParent if the top is another job's child; AddUnknown if no answer came: all of them may have
        been added, or none.
        """
        tree = _Tree(self._wanted)
        tree.check_one_redis({id(link.client()) for link in tree.links})
        node: FlowNode[P, R] = tree.nodes(self._wanted.link.drive(tree.talk()), JobHandle, FlowNode)
        return node

    @property
    def aio(self) -> AsyncFlow[P, R]:
        """The same, awaited: `await flow.aio.add()`."""
        return AsyncFlow(self._wanted)


@dataclass(frozen=True, slots=True)
class AsyncFlowNode(Generic[P, R]):
    """As FlowNode, with handles whose methods are awaited."""

    job: AsyncJobHandle[P, R]
    children: tuple[AsyncFlowNode[Any, Any], ...]


@final
class AsyncFlow(Generic[P, R]):
    """A flow as an asyncio program adds it. Made by `Flow.aio`."""

    def __init__(self, wanted: _Wanted) -> None:
        self._wanted = wanted

    async def add(self) -> AsyncFlowNode[P, R]:
        """Add all the jobs, or none. As `Flow.add`."""
        tree = _Tree(self._wanted)
        tree.check_one_redis({id(await link.aclient()) for link in tree.links})
        made = await self._wanted.link.adrive(tree.talk())
        node: AsyncFlowNode[P, R] = tree.nodes(made, AsyncJobHandle, AsyncFlowNode)
        return node


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a flow says of its job. options: read. where: for messages."""

    link: QueueLink
    name: Any
    payload: Any
    options: Mapping[str, Any]
    where: str
    children: tuple[_Wanted, ...]


def _job_of(queue: object, what: tuple[Any, ...]) -> tuple[QueueLink, Any, Any]:
    """Return the queue, the name and the payload that a flow was given."""
    if isinstance(queue, NamedQueue):
        if len(what) == 1:
            return queue._link, queue.name, what[0]  # noqa: SLF001 - one with its queue
        raise TypeError(f"Flow of {queue!r} takes a payload, and not {len(what)} values")
    if not isinstance(queue, Queue):
        raise BadValue(f"Flow({queue!r}, ...): a Queue is expected, or one seen through a job name")
    if len(what) not in (1, _NAMED):
        raise TypeError(f"Flow of {queue!r} takes a payload, or a name and a payload, and not {len(what)} values")
    name, payload = what if len(what) == _NAMED else (DEFAULT_NAME, what[0])
    return queue._link, name, payload  # noqa: SLF001 - one with its queue


def _below(child: object, where: str) -> _Wanted:
    if not isinstance(child, Flow):
        raise BadValue(f"{where}: children: {child!r} is no Flow")
    return child._wanted  # noqa: SLF001 - its own kind


@dataclass(frozen=True, slots=True)
class _Place:
    """A job in a tree. id: one of its own, or a UUID. parent, children: where in the tree."""

    wanted: _Wanted
    key: QueueKey
    id: str
    parent: int | None
    where: str
    children: list[int] = field(default_factory=list)


class _Tree:
    """The jobs of a flow, level by level, each checked and drafted."""

    def __init__(self, top: _Wanted) -> None:
        self._top = top
        self._places = _levels(top)
        self.links = list({id(place.wanted.link): place.wanted.link for place in self._places}.values())
        self._check_ids()
        self._drafts = [self._draft(place) for place in self._places]

    def check_one_redis(self, clients: set[int]) -> None:
        """Raise BadValue if the queues have more than one client between them: it cannot be one transaction."""
        if len(clients) > 1:
            raise BadValue(
                f"{self._top.where}: the {self._queues()} live in more than one Redis, and a flow is added all or "
                "none: add their jobs one by one"
            )

    def talk(self) -> Talk[list[Made]]:
        """Add the jobs."""
        yield from self._check_top()
        now_ms = epoch_ms()
        ops: list[Op[Any]] = [each.op for each in self._drafts]
        ops += [close_flow(Parent(place.key, place.id), now_ms=now_ms) for place in self._places if place.children]
        answers = yield from ask(Atomic(ops), self._drafts, self._queues())
        for answer in answers:
            if isinstance(answer, HeavyqError):
                raise answer
        return [each.made(answer) for each, answer in zip(self._drafts, answers, strict=False)]

    def nodes(self, made: Sequence[Made], handle: type[Snapshot[Any, Any]], node: type[Any]) -> Any:
        """Return the tree of what was added, with handles of one kind."""
        found: dict[int, Any] = {}
        for n in reversed(range(len(self._places))):  # those below come first
            place = self._places[n]
            below = tuple(found.pop(child) for child in place.children)
            found[n] = node(handle.of(place.wanted.link, made[n]), below)
        return found[0]

    def _check_top(self) -> Talk[None]:
        """Look whether the top will be refused though it is there already, so that its children would be added."""
        top, above = self._places[0], self._top.options.get("parent")
        if above is None or "job_id" not in self._top.options or not top.children:
            return
        parent = Parent(above.queue_key, above.id)
        there = yield from run(find(top.key, top.id))
        if there is None:
            return
        if (yield from run(find(parent.queue, parent.id))) is None:
            raise NoSuchParent(f"there is no job {parent.key}, which was named as parent: nothing was added")
        before = there.parent
        if before is None or before.key == parent.key:
            return
        if (yield from run(find(before.queue, before.id))) is not None:
            raise HasAnotherParent(f"job {top.id} is the child of {before.key}, and stays so: nothing was added")

    def _queues(self) -> str:
        names = ", ".join(repr(link.name) for link in self.links)
        return f"queue{'s' if len(self.links) > 1 else ''} {names}"

    def _check_ids(self) -> None:
        """A job has one parent. Two under the same one are the same job, as in any two adds."""
        seen: dict[tuple[QueueKey, str], int | None] = {}
        for place in self._places:
            if seen.setdefault((place.key, place.id), place.parent) != place.parent:
                raise BadValue(
                    f"{place.where}: job_id {place.id!r} stands in two places of the flow: it has one parent"
                )

    def _draft(self, place: _Place) -> Draft:
        wanted, link = place.wanted, place.wanted.link
        settings = job_settings(link.profile, link.declaration.options.job, wanted.options)
        if settings.parent is not None and place.parent is not None:
            raise BadValue(f"{place.where}: parent: the job's parent is the one above it in the flow")
        if settings.dedup is not None and (place.children or place.parent is not None):
            raise BadValue(f"{place.where}: deduplication: a job that has a parent or children cannot be deduplicated")
        above = None if place.parent is None else self._places[place.parent]
        try:
            return draft(
                link,
                place.key,
                wanted.name,
                wanted.payload,
                wanted.options,
                place.where,
                job_id=place.id,
                parent=None if above is None else Parent(above.key, above.id, settings.on_failure),
                waits_for_children=bool(place.children),
                in_flow=above is not None,
            )
        except PayloadError as error:
            raise PayloadError(f"{place.where}: {error}") from None


def _levels(top: _Wanted) -> list[_Place]:
    """Return the jobs of a tree, the levels from the top down, each with its id."""
    places: list[_Place] = []
    waiting = deque[tuple[_Wanted, int | None]]([(top, None)])
    while waiting:
        wanted, parent = waiting.popleft()
        n = len(places)
        where = top.where if parent is None else f"{top.where}, job {n} (in queue {wanted.link.name!r})"
        job_id = wanted.options.get("job_id") or str(uuid.uuid4())
        places.append(_Place(wanted, wanted.link.key(), job_id, parent, where))
        if parent is not None:
            places[parent].children.append(n)
        waiting.extend((child, n) for child in wanted.children)
    return places
