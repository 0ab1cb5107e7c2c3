"""What passes through the gateway: a call, the catalogue it may choose from, the decision and the hold."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from backends.dialects.over_chat import Sender
from backends.errors import BackendError
from backends.pool import Replicas
from backends.types import Embedder
from policies.types import Arm, Proposal
from router.errors import BudgetExceeded
from router.gateway.eligibility import Requirements, text_bytes
from router.gateway.names import Names
from router.gateway.wildcards import Wildcards
from router.learning.graders.rules import AnswerRule
from router.ports import Ledger
from router.types import NANO_PER_USD, Budget, DecisionRecord, Hold, Model, Principal, Spend

if TYPE_CHECKING:
    from backends.types import Reply, Request
    from router.gateway.metering import Bill
    from router.gateway.replaying import Recording
    from router.gateway.similar import Likeness

Float32 = NDArray[np.float32]
GENERIC_BYTES_PER_TOKEN = 4.0


@dataclass(slots=True)
class Call:
    """One parsed request: what must be known of the body, and the body's own bytes for everything else."""

    path: str
    fields: dict[str, msgspec.Raw]
    text: str  # what is embedded: the last thing the user said
    requirements: Requirements
    stream: bool = False
    wants_usage: bool = True
    preference: float | None = None
    alias: str | None = None  # NAME of auto:NAME
    policy: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    session: str | None = None
    request_id: str = ""
    takes_stored: bool = True  # an answer that was given before will do …
    keeps_stored: bool = True  # … and this one may be given again
    answer: str = ""  # the name under which an answer is stored, where one may be …
    made_by: str = ""  # … and the decision that made what is stored there
    likeness: Likeness | None = None  # to stored questions, where it is compared with any


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What may be chosen from: replaced as a whole when settings are reloaded."""

    models: tuple[Model, ...]
    backends: Mapping[str, Replicas]
    wildcards: Wildcards | None = None  # None: every model is among `models`

    def names(self) -> list[str]:
        """Every model a client may name."""
        return [model.name for model in self.models]

    def among(self, name: str | None) -> tuple[Model, ...]:
        """The models, and the one that a client names under a wildcard. Raises: NotFound where nothing prices that."""
        if not self.wildcards or name is None or name in self.names():
            return self.models
        found = self.wildcards.find(name)
        return self.models if found is None else (*self.models, found)

    def meaning(self, name: str, names: Names) -> str:
        """The model, `auto` or `auto:NAME` that a client's name stands for; the name itself where it is one."""
        if not (names.mapped or names.unknown or self.wildcards):
            return name
        return names.meaning(name, self.names(), self.wildcards.meaning if self.wildcards else None)

    def arms(self) -> tuple[Arm, ...]:
        """The models as policies see them."""
        return tuple(arm_of(model) for model in self.models)


def generic_tokens(call: Call) -> int:
    """Prompt tokens of four bytes each, for comparing models of different tokenizers."""
    return int(text_bytes(call.requirements) / GENERIC_BYTES_PER_TOKEN) + 1


@lru_cache(maxsize=4096)
def _arm(name: str, prompt: int, completion: int, scale: float, context: int, lineage: tuple[object, ...]) -> Arm:
    parent, bits, parameters, quality, cached, foretold, width_loss, varies = lineage
    per_token = 1e6 * NANO_PER_USD
    return Arm(
        name=name,
        prompt_price=prompt * scale / per_token,
        completion_price=completion / per_token,
        context_tokens=context,
        parent=parent if isinstance(parent, str) else None,
        bits=bits if isinstance(bits, int | float) else None,
        parameters=parameters if isinstance(parameters, float) else None,
        quality=quality if isinstance(quality, float) else None,
        cached_price=cached * scale / per_token if isinstance(cached, int) else None,
        foretold=foretold if isinstance(foretold, float) else None,
        width_loss=width_loss if isinstance(width_loss, float) else None,
        varies=varies is True,
    )


def arm_of(model: Model) -> Arm:
    """The model as a policy sees it. Its prompt price is per generic token of four bytes, so that models of different
    tokenizers compare on one prompt length."""
    scale = GENERIC_BYTES_PER_TOKEN / model.bytes_per_token
    known = (model.parent, model.bits, model.parameters, model.quality)
    lineage = (*known, model.price.cached, model.foretold, model.width_loss, model.program is not None)
    return _arm(model.name, model.price.prompt, model.price.completion, scale, model.context_tokens, lineage)


@dataclass(frozen=True, slots=True)
class Candidates:
    """The models a request may choose from, with what every decision over them needs; made once, used by many."""

    models: tuple[Model, ...]  # (n,)
    refusals: Mapping[str, str]  # model -> reason, for the others
    names: tuple[str, ...]
    arms: tuple[Arm, ...]
    budgets: tuple[Budget, ...]  # the models' own and those they share, each once
    longest: int  # completion tokens of the most talkative
    caches: bool = False  # whether one of them has a price for what it finds in its cache
    stored: NDArray[np.float64] | None = None  # as in LoggedContext

    @property
    def rates(self) -> list[float]:
        """(n,) tokens of each model's own for a generic one of four bytes."""
        return [GENERIC_BYTES_PER_TOKEN / model.bytes_per_token for model in self.models]

    @classmethod
    def of(cls, models: tuple[Model, ...], refusals: Mapping[str, str]) -> Candidates:
        """From the models that may serve."""
        return cls(
            models,
            refusals,
            names=tuple([model.name for model in models]),
            arms=tuple([arm_of(model) for model in models]),
            budgets=tuple(dict.fromkeys([budget for model in models for budget in model.budgets])),
            longest=max([model.max_output_tokens for model in models], default=0),
            caches=any(model.price.cached is not None for model in models),
        )


@dataclass(frozen=True, slots=True)
class Neighbour:
    """One past query near the present one, as evidence."""

    text: str
    similarity: float
    scores: Mapping[str, float]
    history: str | None = None  # that an operator taught; None: the tenant's own


@dataclass(slots=True)
class Decision:
    """The record of a decision, and what only this request needs beside it."""

    record: DecisionRecord
    proposal: Proposal
    models: tuple[Model, ...]  # (n,) eligible, as the record's arms
    refusals: Mapping[str, str]  # model -> reason, for the others

    @property
    def decision_id(self) -> str:
        return self.record.decision_id

    @property
    def model(self) -> Model:
        """That is asked."""
        return self.named(self.record.model)

    def named(self, name: str) -> Model:
        """One of the eligible models."""
        for model in self.models:  # a generator would cost more than the search
            if model.name == name:
                return model
        raise KeyError(name)

    def fall_to(self, name: str) -> None:
        """Another model than the one drawn is asked, since no budget had room for that one."""
        drawn = self.record.drawn or self.record.model
        self.record = replace(self.record, model=name, backend=self.named(name).backend, drawn=drawn)


@dataclass(frozen=True, slots=True)
class JudgeRules:
    """Who judges answers that nobody judged, how many, and who pays."""

    models: tuple[str, ...]  # the first that did not answer itself
    key: str = field(repr=False)  # whose tenant pays
    share: float = 0.05  # of answers, in the mean
    pairwise: bool = False
    rubric: str = ""
    max_tokens: int = 16


@dataclass(frozen=True, slots=True)
class LearningRules:
    """What is learned of answers without being told."""

    sources: tuple[str, ...] = ("graders", "judge")  # for tenants that do not say; also "signature"
    rules: tuple[AnswerRule, ...] = ()
    judge: JudgeRules | None = None


@dataclass(frozen=True, slots=True)
class Options:
    """How a gateway decides; from settings."""

    policy: str
    preference: float
    reference_usd: float
    k: int
    hold_ttl_ms: int = 30_000  # the lease; renewed while this process lives
    longest_ms: int = 600_000  # no request is served for longer
    keep_characters: int = 0  # of the query's text, in the log
    remember: bool = True  # False: nothing is embedded, logged or learned
    balance_ttl_s: float = 0.25
    aliases: Mapping[str, float] = field(default_factory=dict)  # preference by NAME of auto:NAME
    on_request: frozenset[str] | None = None  # policies that a request may name; None: all there are
    names: Names = field(default_factory=Names)
    refuse_worthless: bool = False  # what is not worth its price while a budget is short
    refuse_unforeseen: bool = False  # under a hard budget, rather than holding the whole context
    learning: LearningRules = LearningRules()

    def sources_of(self, principal: Principal) -> tuple[str, ...]:
        """Where judgements of answers to this caller may come from, beside people."""
        return self.learning.sources if principal.learn_from is None else principal.learn_from


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a decision asks of the world: balances, vectors, chance and time."""

    ledger: Ledger
    embedder: Embedder
    generator: np.random.Generator
    clock: Callable[[], float]  # seconds
    features: Callable[[str], Float32] | None = None  # of the surface of a prompt; None: no policy looks at them
    keep: Callable[[str, str], bytes] | None = None  # the counts of a tenant's text, by the id that is returned


class NotWorthItsPrice(BudgetExceeded):
    """The best answer is worth less than what it takes from a budget that others need; with the decision."""

    def __init__(self, record: DecisionRecord, message: str, *, retry_after_s: float) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.record = record


class Timings:
    """Seconds of each stage of one request, by perf_counter."""

    __slots__ = ("at", "spent")

    def __init__(self) -> None:
        self.at = time.perf_counter()
        self.spent: dict[str, float] = {}

    def mark(self, stage: str) -> None:
        """Add the time since the last mark to this stage."""
        now = time.perf_counter()
        self.spent[stage] = self.spent.get(stage, 0.0) + now - self.at
        self.at = now

    def mark_answer(self, engine_s: float | None) -> None:
        """An engine has answered. Of the time since the last mark, what the engine took by its socket is its own
        ("first_byte"), and the rest the gateway's ("wake"), which had other things to do."""
        wall_s = time.perf_counter() - self.at
        engine_s = wall_s if engine_s is None else min(engine_s, wall_s)
        for stage, seconds in (("first_byte", engine_s), ("wake", wall_s - engine_s)):
            self.spent[stage] = self.spent.get(stage, 0.0) + seconds
        self.at += wall_s


@dataclass(slots=True)
class ServedRequest:
    """A request that is over, with its answer or its refusal."""

    at: float  # seconds since 1970, when it was over
    method: str
    seconds: float  # from its head at its socket to the last byte of its answer
    path: str
    request_id: str
    status: int  # 499 where the client left before there was one
    reason: str  # "ok", the error's code, "stream_broken" or "client_gone"
    principal: Principal | None  # None: no key said whose it was
    overhead_s: float | None = None  # None: no engine answered
    asked_for: str | None = None  # a model by name or NAME of auto:NAME; None: any, or the body was not read so far
    stream: bool = False
    decision: Decision | None = None  # None: no engine answered
    spend: Spend | None = None  # None: nothing was settled
    timings: Mapping[str, float] = field(default_factory=dict)  # seconds of each


class Metrics:
    """What the gateway counts; the metrics endpoint subclasses it. The defaults count nothing."""

    def decided(self, decision: Decision) -> None:
        """A decision was drawn."""

    def held(self, change: int) -> None:
        """A hold was taken (1) or has ended (−1)."""

    def settled(self, model: str, tenant: str, spend: Spend, timings: Timings) -> None:
        """A request ended and was charged."""

    def served(self, request: ServedRequest) -> None:
        """A request to a route that calls a model is over, however it ended."""

    def doubted(self, model: str, kind: str) -> None:
        """An engine's report did not fit, or an answer cost more than was held; `kind` as in the audit log."""

    def judged(self, source: str, outcome: str) -> None:
        """A judge was asked: "judged", "no_verdict", "busy", "failed", or the code of the error it ended in."""

    def failed(self, model: str, error: BackendError) -> None:
        """A backend failed before its first byte."""

    def turned_away(self, status: int, code: str, tenant: str) -> None:
        """A request was answered with an error; `tenant` is empty where no key said whose it was."""


class Running(Protocol):
    """A program under way."""

    attempt: Attempt  # that runs it

    async def send(self, request: Request) -> Reply:
        """See Backend.send."""

    def bill(self) -> Bill:
        """What it costs as far as it has come."""


@dataclass(frozen=True, slots=True)
class OneStep:
    """A program whose whole plan is one call of one model: a request to that model, under the program's name."""

    model: Model  # by the program's name
    asked: str  # the model's own
    role: str

    def mark(self, decision: Decision) -> None:
        """The decision is the run's, and its only step's."""
        run = {"program": self.model.name, "run": decision.decision_id, "step": self.role, "asked": self.asked}
        decision.record = replace(decision.record, metadata={**run, **decision.record.metadata})


@dataclass(slots=True)
class Attempt:
    """A request with its hold taken."""

    decision: Decision
    hold: Hold
    model: Model
    principal: Principal
    call: Call
    timings: Timings
    backend: Sender  # as it was when the decision was made: a reload may give its name to another
    run: Running | None = None  # of a program, which is then what sends
    answers_as: str = ""  # the name the client sees, where it is not the model's
    room: int | None = None  # tokens of the answer, where fewer are left of the context than the client asks for
    completion_tokens: int = 0  # once it is settled
    spend: Spend | None = None  # what it was settled at
    asked: frozenset[str] = frozenset()  # of a program: models that its steps asked
    looks: bytes = b""  # float32 policies.signature.FEATURES of the answer, where logprobs were asked for to learn
    signature: bytes = b""  # float32 policies.signature.FEATURES of the answer that was judged before it was returned …
    answered: str = ""  # … the program's arm that gave it …
    returned: float = 1.0  # … and how likely it was to be returned
    stored: str = ""  # of an answer that was given before: how it was found, and how old it is
    blocks: list[bytes] | None = None  # of an answer that may be given again …
    recording: Recording | None = None  # … and of a stream, as far as it has come
    marks: list[str] = field(default_factory=list)  # of calls and signatures that only its model can go on from
    agrees: bool | None = None  # with what is stored for a similar question


def new_id() -> str:
    """A decision id: `dec-` and 36 hexadecimal digits, 12 of milliseconds since 1970 and 24 that nobody can guess."""
    return f"dec-{int(time.time() * 1000):012x}{secrets.token_hex(12)}"
