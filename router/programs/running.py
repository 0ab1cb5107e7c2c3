"""A program under way: every step is an ordinary decision, under one hold, and all are one bill.

How it fails: a step that could cost more than the hold has left is not started (OverPlan). What steps cost until then
is charged. A step that is cut before its answer is there is charged nothing, as a plain request is.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from backends.dialects.over_chat import CHAT
from backends.errors import BackendError, Failed, Overloaded, Refused, TimedOut
from backends.sse import DONE, USAGE
from backends.types import Reply, Report, Request, Stream, Whole
from router.errors import NoCandidate, PointsmanError, RequestRejected, UpstreamFailed
from router.gateway.eligibility import worst_cost
from router.gateway.metering import Bill, Doubt, billed
from router.gateway.run_eagerly import to_its_end
from router.gateway.serving import Gateway
from router.gateway.types import Attempt, Call, Timings
from router.programs.answers import choice_of, events_of, renamed, with_usage
from router.programs.plans import RunPlan, Step
from router.types import RELEASED, Hold, NanoUsd, Spend, show_usd

T = TypeVar("T")
_READ = ("messages", "tools", "functions", "response_format")  # what of a request counts as its prompt
_KEPT = frozenset({"temperature", "top_p", "seed", "user"})
_OF_STREAMS = ("stream", "stream_options")


class OverPlan(UpstreamFailed):
    """A step would cost more than what is left of the program's hold."""

    code = "over_plan"


_NO_REPLY = Whole(b"", Report())


@dataclass(slots=True)
class StepReply:
    """A step and its answer, once that is there."""

    role: str
    attempt: Attempt
    reply: Reply = _NO_REPLY
    is_logged: bool = False

    @property
    def is_there(self) -> bool:
        """Whether its first byte came."""
        return self.reply is not _NO_REPLY

    @property
    def choice(self) -> dict[str, Any]:
        """Of a plain answer. Raises: Failed."""
        if not isinstance(self.reply, Whole):
            raise Failed("answered a stream to a plain request", backend="program")
        return choice_of(self.reply)


class Run:
    """One run. `plan` is what it may do."""

    attempt: Attempt

    def __init__(self, gateway: Gateway, plan: RunPlan, go: Callable[[Run, Request], Awaitable[Reply]]) -> None:
        self.plan, self.gateway = plan, gateway
        self.go = go
        self._ended: list[Spend] = []
        self._begun: dict[str, StepReply] = {}  # by decision: not ended
        self._answered: list[str] = []  # roles of the steps that gave an answer
        self._notes: asyncio.Queue[bytes | None] = asyncio.Queue()

    @property
    def name(self) -> str:
        """By which the client knows it: of a program within a program, the outer one's."""
        return self.attempt.answers_as or self.attempt.model.name

    @property
    def left(self) -> NanoUsd:
        """Of the hold: less what ended steps cost, and the worst that those under way can."""
        spent = sum([spend.cost for spend in self._ended]) + sum(
            [each.attempt.hold.amount for each in self._begun.values()]
        )
        return NanoUsd(self.attempt.hold.amount - spent)

    def bill(self) -> Bill:
        """What all steps cost so far."""
        begun = [billed(each.attempt, each.reply.report).spend for each in self._begun.values() if each.is_there]
        spends = [*self._ended, *begun]
        sent = any(spend.outcome == "settled" for spend in spends)
        total = Spend(
            NanoUsd(sum([spend.cost for spend in spends])),
            sum([spend.prompt_tokens for spend in spends]),
            sum([spend.completion_tokens for spend in spends]),
            "settled" if sent else "released",
            any(spend.estimated for spend in spends),
        )
        held = self.attempt.hold.amount
        over = Doubt("hold.over", {"held": held, "charged": total.cost})
        return Bill(total, (over,) if total.cost > held else ())

    async def send(self, request: Request) -> Reply:
        """As Backend.send, by running the program. Raises: BackendError, PointsmanError."""
        name = self.attempt.model.name
        try:
            if request.stream:
                return await self._begin_stream(request)
            reply = await self._gone(request)
            if not isinstance(reply, Whole):
                raise Failed("ended in a stream where a plain answer was asked for", backend=name)
            return renamed(reply, self.name, self.bill().spend)
        except (NoCandidate, UpstreamFailed, RequestRejected) as error:
            if self.attempt.call.requirements.pinned is not None:
                raise
            raise Failed(error.message, backend=name) from error  # another arm may do it
        except BackendError as error:
            if isinstance(error, (Refused, TimedOut, Overloaded)):
                raise
            raise Failed(str(error), backend=name) from error

    async def _begin_stream(self, request: Request) -> Reply:
        """Returns at the first progress, or when the last step has begun to answer."""
        task = asyncio.create_task(self._to_its_end(request))
        first = asyncio.ensure_future(self._notes.get())
        try:
            await asyncio.wait({task, first}, return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            first.cancel()
            try:
                await _stopped(task)
            finally:
                await to_its_end(self.close())  # the last step may have begun to answer meanwhile
            raise
        note = await first
        if note is None:
            await task  # which raises where the first step failed
        return ProgramStream(self, task, note, wants_usage=request.wants_usage)

    async def _to_its_end(self, request: Request) -> Reply:
        try:
            return await self._gone(request)
        except BaseException:
            await to_its_end(self.close())  # a stream that was looked at and not returned
            raise
        finally:
            self._notes.put_nowait(None)

    async def _gone(self, request: Request) -> Reply:
        reply = await self.go(self, request)
        self.gateway.steps.ran(self.plan.program, self._answered)
        return reply

    async def next_note(self) -> bytes | None:
        """The next comment on what was done; None once the last step answers."""
        return await self._notes.get()

    async def ask(
        self, step: Step, fields: Mapping[str, object], request: Request, *, streams: bool = False
    ) -> StepReply:
        """Take one step. A plain answer is charged when this returns, a stream when end() is told.

        Raises: OverPlan, BackendError, PointsmanError.
        """
        call = self._call(step, fields, request, streams=streams)
        decider, principal = self.gateway.decider, self.attempt.principal
        failed: frozenset[str] = frozenset()
        problem: BackendError | None = None
        while True:
            catalogue, without = decider.catalogue, failed
            if not call.requirements.pinned:  # auto draws no program
                without |= {model.name for model in catalogue.models if model.program is not None}
            try:
                decision = await decider.decide(principal, call, Timings(), without=without)
            except (NoCandidate, RequestRejected):
                if problem is None:
                    raise
                raise problem from None
            decision.record = replace(decision.record, metadata=self._marks(step))
            hold = self._hold_of(decision.model, call)
            answer = self._begin(step, self.gateway.attempt(decision, hold, principal, call, catalogue, Timings()))
            answer.attempt.answers_as = self.name
            try:
                answer.reply = await self.gateway.open_step(answer.attempt)
            except BaseException as error:
                await to_its_end(self._end(answer))
                if not isinstance(error, BackendError) or call.requirements.pinned or isinstance(error, Refused):
                    raise
                problem, failed = error, failed | {decision.model.name}
                continue
            return await self._took(answer)

    def _begin(self, step: Step, attempt: Attempt) -> StepReply:
        self._begun[attempt.decision.decision_id] = answer = StepReply(step.role, attempt)
        self.attempt.asked |= {attempt.model.name, *attempt.asked}
        return answer

    async def _took(self, answer: StepReply) -> StepReply:
        self._answered.append(answer.role)
        note = f": {len(self._answered)}/{len(self.plan.steps)} {answer.attempt.model.name}\n\n"
        self._notes.put_nowait(note.encode())
        if isinstance(answer.reply, Whole):
            await to_its_end(self._end(answer))
        return answer

    async def end(self, answer: StepReply) -> None:
        """A stream's step is over: cut it off where it goes on, and charge it. Idempotent."""
        if isinstance(answer.reply, Whole) or answer.attempt.decision.decision_id not in self._begun:
            return
        await answer.reply.aclose()
        await self._end(answer)

    async def close(self) -> None:
        """End whatever is still under way."""
        for answer in list(self._begun.values()):
            await self.end(answer)

    async def _end(self, answer: StepReply) -> None:
        """Of a step: its bill joins the program's, and the log has it."""
        attempt, report = answer.attempt, answer.reply.report if answer.is_there else None
        if self._begun.pop(attempt.decision.decision_id, None) is None:
            return
        bill = billed(attempt, report) if report is not None else Bill(RELEASED)
        if report is None and attempt.run is not None:
            bill = attempt.run.bill()  # a program within this one, which broke off
        self._ended.append(bill.spend)
        await self._log(answer, bill, report)

    async def log_whole(self) -> None:
        """Log the steps that have given all of their answers, before the run itself is settled."""
        for answer in list(self._begun.values()):
            report = answer.reply.report
            if answer.is_there and report.complete:
                await to_its_end(self._log(answer, billed(answer.attempt, report), report))

    async def _log(self, answer: StepReply, bill: Bill, report: Report | None) -> None:
        if answer.is_logged:
            return
        answer.is_logged = True
        if report is not None and report.complete:
            self.gateway.steps.answered(self.plan.program, answer.role, bill.spend.completion_tokens)
        await self.gateway.close_step(answer.attempt, bill, report)

    def _hold_of(self, model: Any, call: Call) -> Hold:
        """A part of the program's own hold. Raises: OverPlan."""
        worst, left = worst_cost(model, call.requirements), self.left
        if worst > left:
            raise OverPlan(
                f"the next step may cost {show_usd(worst)} USD and {show_usd(max(left, 0))} USD are left of what the "
                f"program {self.attempt.model.name} held; it was not started"
            )
        return Hold(self.attempt.hold.decision_id, model.name, worst, self.attempt.hold.expires_at_ms)

    def _marks(self, step: Step) -> dict[str, str]:
        run = self.attempt
        number = len(self._ended) + len(self._begun) + 1
        marks = {"program": run.model.name, "run": run.decision.decision_id, "step": f"{number} {step.role}"}
        return {**marks, **run.decision.record.metadata}  # of a program within a program: the outer one's

    def _call(self, step: Step, fields: Mapping[str, object], request: Request, *, streams: bool) -> Call:
        given = {key: value for key, value in fields.items() if key not in (*_OF_STREAMS, "model")}
        if streams:
            given["stream"] = True
        raws = {
            key: value if isinstance(value, msgspec.Raw) else msgspec.Raw(msgspec.json.encode(value))
            for key, value in given.items()
        }
        size = min(step.requirements.prompt_bytes, sum([len(raws[name]) for name in _READ if name in raws]))
        named, outer = step.part.preference is None and step.part.arm != "auto", self.attempt.call
        return Call(
            CHAT,
            raws,
            _text_of(given, outer.text),
            replace(step.requirements, prompt_bytes=size, pinned=step.part.arm if named else None),
            stream=streams,
            wants_usage=request.wants_usage,
            preference=outer.preference if step.part.preference is None else step.part.preference,
            headers=outer.headers,
            session=outer.session,
            request_id=outer.request_id,
            takes_stored=False,  # several are asked the same to get several answers
            keeps_stored=False,
        )


def fields_of(request: Request) -> dict[str, object]:
    """The chat request as it stands, with what the gateway lays over it."""
    return {**request.fields, **request.extra}


def kept_of(request: Request) -> dict[str, object]:
    """What of it holds for steps that ask something else."""
    return {key: value for key, value in request.fields.items() if key in _KEPT}


def messages_of(request: Request) -> list[dict[str, Any]]:
    """Its messages."""
    found: list[dict[str, Any]] = msgspec.json.decode(request.fields["messages"])
    return found


async def side_by_side(works: Sequence[Coroutine[Any, Any, T]], at_once: int) -> list[T]:
    """All of them, `at_once` at a time, in order; where one fails the others are cut off, and its error is raised."""
    gate = asyncio.Semaphore(at_once)

    async def one(work: Coroutine[Any, Any, T]) -> T:
        async with gate:
            return await work

    tasks = [asyncio.create_task(one(work)) for work in works]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for work in works:
            if inspect.getcoroutinestate(work) == inspect.CORO_CREATED:
                work.close()  # it never had its turn
        await _stopped(*tasks)


async def _stopped(*tasks: asyncio.Task[Any]) -> None:
    """Once all are over: what they do at their end is done, however often their waiter is cancelled meanwhile."""
    was_cancelled = False
    for task in tasks:
        if not task.done() and not task.cancelling():
            task.cancel()  # once: another one would cut its own cleaning up short
    while any(not task.done() for task in tasks):
        try:
            await asyncio.wait(tasks)
        except asyncio.CancelledError:
            was_cancelled = True
    for task in tasks:
        if not task.cancelled():
            task.exception()  # which somebody else was told
    if was_cancelled:
        raise asyncio.CancelledError


def _text_of(fields: Mapping[str, object], usual: str) -> str:
    """What is embedded of a step: the request's own text, or what its last message says where we wrote it."""
    messages = fields.get("messages")
    if not isinstance(messages, list):
        return usual
    content = messages[-1].get("content")
    return content if isinstance(content, str) else usual


class ProgramStream:
    """Progress as comments, then the last step's own stream. See Stream."""

    def __init__(self, run: Run, task: asyncio.Task[Reply], note: bytes | None, *, wants_usage: bool) -> None:
        self._run, self._task, self._note, self._wants_usage = run, task, note, wants_usage
        self._last: Reply | None = None
        self._own = Report()

    @property
    def report(self) -> Report:
        """The last step's, once it answers."""
        return self._own if self._last is None else self._last.report

    async def __aiter__(self) -> AsyncIterator[bytes]:
        note = self._note
        while note is not None:
            yield note
            note = await self._run.next_note()
        try:
            self._last = await self._task
        except (BackendError, PointsmanError) as error:
            self._own.failure = str(error)
            return
        async for block in self._relayed(self._last):
            yield block
        await self._run.close()

    async def _relayed(self, reply: Whole | Stream) -> AsyncIterator[bytes]:
        if isinstance(reply, Whole):
            answer = renamed(reply, self._run.name, self._run.bill().spend)
            for event in events_of(answer, wants_usage=self._wants_usage):
                yield event
            return
        async for block in reply:
            if block.endswith(DONE):
                await self._run.log_whole()
            yield with_usage(block, self._run.bill().spend) if USAGE.search(block) is not None else block

    async def aclose(self) -> None:
        """Stop at once."""
        await _stopped(self._task)
        await self._run.close()
