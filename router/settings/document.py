"""The whole settings document, and the gateway's own nouns made from it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field, PrivateAttr, SecretStr

from router.errors import SettingsError
from router.settings.abilities import CAPABILITIES, EVERYTHING, able
from router.settings.access_groups import grouped, spread
from router.settings.annotations import Annotations
from router.settings.embedder_sections import Embedder, HashingSection
from router.settings.engine_sections import Backend, EmbeddedSection, LitellmSection, VllmSection
from router.settings.learning_sections import LearningSection
from router.settings.listed import Listed, Look
from router.settings.page_section import PageSection
from router.settings.price_sections import PriceSection
from router.settings.program_sections import ProgramSection
from router.settings.scalars import is_private
from router.settings.sections import (
    Admission,
    Auth,
    BudgetRules,
    FeedbackSection,
    Index,
    KeySection,
    Log,
    ModelBudget,
    ModelSection,
    PolicySection,
    Preference,
    Reload,
    Responses,
    StoreSection,
    TenantSection,
)
from router.settings.server_section import Server
from router.settings.telemetry_section import Telemetry
from router.terms import Level, Name, OwnerName, Section, Share, narrowed
from router.types import Budget, Model, Price, Principal
from router.wildcards import captured

USUAL_WORTH_USD = 0.001  # of a point of quality on one request of a few hundred tokens
FAMILY_WORTH_USD = 0.000_01  # … on one of the packaged family, a few dozen bytes
CONTEXT_TOKENS = 8_192  # where neither the file nor the engine says


@dataclass(frozen=True, slots=True)
class StaticKey:
    """A key from the settings file and who it stands for."""

    secret: SecretStr
    principal: Principal


class Settings(Section):
    """Everything. An empty file means the packaged model family, SQLite and hashed embeddings."""

    server: Server = Field(default=Server(), description="Where the gateway listens and how much it takes in.")
    state_dir: Path = Field(
        default=Path("~/.local/state/pointsman"),
        description="Folder for the database and snapshots; made at the start. A relative one lies beside the settings "
        "file; without a file, $XDG_STATE_HOME goes before ~/.local/state.",
    )
    store: StoreSection = Field(default=StoreSection(), description="Where money, keys and the log live.")
    auth: Auth = Field(default=Auth(), description="Who may call.")
    backends: dict[Name, Backend] = Field(
        default={"family": EmbeddedSection(kind="embedded")}, description="Engines and providers by name."
    )
    models: tuple[ModelSection, ...] = Field(default=(), description="Candidates, beside those that backends discover.")
    programs: dict[Name, ProgramSection] = Field(
        default={}, description="Several calls under one name, with one plan and one bill: candidates like models."
    )
    default_price: PriceSection | None = Field(
        default=None, description="Price of a model nothing else prices; without it such a model stops the start."
    )
    embedder: Embedder = Field(default=HashingSection(), description="Turns queries into vectors.")
    index: Index = Field(default=Index(), description="The nearest past queries.")
    policy: PolicySection = Field(default=PolicySection(), description="Who decides.")
    preference: Preference = Field(default=Preference(), description="Quality against money.")
    model_map: dict[Name, Name] = Field(
        default={}, description="What an application's own names mean: a model, `auto` or `auto:NAME` by such a name."
    )
    unknown_model: Name | None = Field(
        default=None, description="What every name that is not known means; without it such a name is an error 404."
    )
    fallbacks: dict[Name, tuple[Name, ...]] = Field(
        default={}, description="By name: models asked in this order when the one asked for by that name cannot answer."
    )
    context_fallbacks: dict[Name, tuple[Name, ...]] = Field(
        default={}, description="The same for a request that is too long for the one asked for."
    )
    budgets: BudgetRules = Field(default=BudgetRules(), description="What holds for every budget.")
    model_budgets: dict[Name, ModelBudget] = Field(
        default={}, description="Budgets that several models share over all tenants."
    )
    aliases: dict[Name, Share] = Field(
        default={"cheap": 0.0, "balanced": 0.5, "best": 1.0}, description="Preference of each `auto:NAME`."
    )
    tenants: dict[OwnerName, TenantSection] = Field(default={}, description="Tenants that exist from the start.")
    admission: Admission = Field(
        default=Admission(), description="What a compressed variant must show before it serves."
    )
    feedback: FeedbackSection = Field(default=FeedbackSection(), description="What is taken in of judgements.")
    learning: LearningSection = Field(
        default=LearningSection(), description="What is learned of answers that no person judged."
    )
    responses: Responses = Field(default=Responses(), description="Answers kept for clients that go on from them.")
    log: Log = Field(default=Log(), description="What the outcome log keeps of a query.")
    telemetry: Telemetry = Field(default=Telemetry(), description="What operators see.")
    page: PageSection = Field(default=PageSection(), description="The page at `/`.")
    reload: Reload = Field(default=Reload(), description="Settings taken up while running.")

    _read: Annotations = PrivateAttr(default_factory=Annotations)
    _listed: dict[str, Listed] = PrivateAttr(default_factory=dict)
    _look: Look = PrivateAttr(default_factory=lambda: _no_list)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was read and has no effect here, and what was assumed; to be shown at the start."""
        return self._read.notes

    @property
    def unroutable(self) -> tuple[str, ...]:
        """Models of the file that nothing can be sent to, each with its reason and the line to add."""
        return self._read.unroutable

    @property
    def read(self) -> Annotations:
        """What else is known of the file."""
        return self._read

    def annotate(self, read: Annotations) -> Settings:
        """The same settings with what else is known of their file."""
        self._read = read
        return self

    def listing(self, listed: Mapping[str, Listed], look: Look) -> Settings:
        """The same settings with what a provider's list says by model name, and where to look for other names."""
        self._listed, self._look = dict(listed), look
        return self

    @property
    def wildcards(self) -> tuple[ModelSection, ...]:
        """Entries that stand for many models."""
        return tuple(each for each in self.models if each.is_wildcard)

    def is_known(self, name: str) -> bool:
        """Whether a client may ask for this name: an entry's own, a program's, or one that a wildcard stands for."""
        return name in self.programs or any(
            each.name == name or captured(each.name, name) is not None for each in self.models
        )

    def backend_of(self, model: ModelSection) -> str:
        """The backend a model names, or the only one there is. Raises: SettingsError."""
        if model.backend is not None:
            return model.backend
        if len(self.backends) == 1:
            return next(iter(self.backends))
        raise SettingsError(f"model {model.name}: no backend, expected one of {', '.join(self.backends)}")

    def price_of(self, model: ModelSection) -> Price | None:
        """The model's price, its provider's list price or the default; None where there is none."""
        return self._priced(model, self._listed.get(model.name))

    def _priced(self, model: ModelSection, listed: Listed | None) -> Price | None:
        if model.price is not None:
            return model.price.price()
        if listed is not None and listed.price is not None:
            replicas = getattr(self.backends[self.backend_of(model)], "replicas", ())
            return listed.price_at((each.url, each.params) for each in replicas)
        last = model.unlisted_price or self.default_price
        return last.price() if last else None

    def candidates(self) -> tuple[Model, ...]:
        """The models this document lists, less those that only a backend that discovers them can price."""
        single = (each for each in self.models if not each.is_wildcard)
        priced = ((each, self.price_of(each)) for each in single)
        return tuple(self._candidate(each, price, self._listed.get(each.name)) for each, price in priced if price)

    def named_under(self, wildcard: ModelSection, name: str) -> tuple[Model | None, bool]:
        """The model that a client names under a wildcard, None where nothing prices it; and whether the list has it."""
        section = wildcard.model_copy(update={"upstream": wildcard.upstream_of(name)})
        listed = self._look(str(section.upstream))
        price = self._priced(section, listed)
        if price is None:
            return None, False
        found = self._candidate(section, price, listed)
        can = found.capabilities if section.capabilities or (listed and listed.mode) else EVERYTHING
        return replace(found, name=name, wildcard=wildcard.name, capabilities=can), listed is not None

    def retires_under(self, wildcard: ModelSection, name: str) -> str | None:
        """The day a provider takes away what a client names under a wildcard; None at one's own addresses."""
        backend = self.backends[self.backend_of(wildcard)]
        if backend.kind != "litellm" or any(each.url and is_private(each.url) for each in backend.replicas):
            return None
        listed = self._look(wildcard.upstream_of(name))
        return listed.retires if listed else None

    def _candidate(self, section: ModelSection, price: Price, listed: Listed | None) -> Model:
        backend = self.backend_of(section)
        kind = self.backends[backend].kind
        listed = listed or Listed(price)
        context = section.context_tokens or listed.context_tokens or CONTEXT_TOKENS
        longest = section.max_output_tokens or listed.max_output_tokens or context
        return Model(
            name=section.name,
            backend=backend,
            upstream=section.upstream or section.name,
            price=price,
            context_tokens=context,
            max_output_tokens=min(longest, context),
            local=self.backends[backend].is_local if section.local is None else section.local,
            capabilities=able(kind, section, listed),
            lacks=listed.lacks if section.lacks is None else section.lacks,
            parent=section.parent,
            bits=section.bits,
            parameters=section.parameters,
            quality=section.quality,
            family=section.family,
            trained_tokens=section.trained_tokens,
            released=section.released,
            extra_body=section.extra_body,
            defaults=section.defaults,
            drop_fields=section.drop_fields,
            budgets=self._model_budgets(section.name, section),
            limits=(section.limits.limit(f"model:{section.name}"),) if section.limits else (),
            draining=section.drain,
            bytes_per_token=section.bytes_per_token,
            **self._of_replicas(backend),
        )

    def _of_replicas(self, backend: str) -> dict[str, Any]:
        section = self.backends[backend]
        if not isinstance(section, VllmSection | LitellmSection):
            return {}
        return {"replica_prices": section.replica_prices(backend), "tags": section.tags}

    def _model_budgets(self, name: str, section: ModelSection | None) -> tuple[Budget, ...]:
        """Its own budget and those that it shares with other models."""
        own = section.capacity if section is not None else None
        shared = ((key, each) for key, each in self.model_budgets.items() if each.models is None or name in each.models)
        return (
            *((own.budget(f"model:{name}"),) if own is not None else ()),
            *(each.budget.budget(f"models:{key}") for key, each in shared),
        )

    def discovered(
        self,
        backend: str,
        upstream: str,
        *,
        name: str | None = None,
        price: Price | None = None,
        context_tokens: int = CONTEXT_TOKENS,
        max_output_tokens: int | None = None,
        **facts: Any,
    ) -> Model:
        """A model a backend found, as a candidate; what the document says of it wins over what was found.

        A variant nothing else prices costs what its parent does.

        `facts` are further fields of Model: capabilities, parent, bits, parameters, extra_body, bytes_per_token.
        Raises: SettingsError where nothing prices it.
        """
        known = name or upstream, facts.get("bits")
        found = price or self._found_price(backend, upstream, *known, facts.get("parent"))
        facts.setdefault("capabilities", CAPABILITIES[self.backends[backend].kind])
        model = Model(
            name=name or upstream,
            backend=backend,
            upstream=upstream,
            price=found,
            context_tokens=context_tokens,
            max_output_tokens=min(max_output_tokens or context_tokens, context_tokens),
            local=self.backends[backend].is_local,
            budgets=self._model_budgets(name or upstream, None),
            **facts,
        )
        section = self._section(backend, upstream, model.name, model.bits)
        return model if section is None else self._overridden(model, section)

    def _section(self, backend: str, upstream: str, name: str, bits: float | None = None) -> ModelSection | None:
        """By its name or the engine's; a width is asked for by its parent's, so `bits` must be beside that."""
        for each in self.models:
            asked = each.upstream or each.name
            named = each.name == name or (asked == name and each.bits in (None, bits))
            if (named or (bits is not None and (asked, each.bits) == (upstream, bits))) and self.backend_of(
                each
            ) == backend:
                return each
        return None

    def _found_price(self, backend: str, upstream: str, name: str, bits: float | None, parent: str | None) -> Price:
        """What the document says of the model, of its parent (an adapter costs what its base does), or the default."""
        for found, known_as, width in ((upstream, name, bits), (parent, parent, None)):
            section = self._section(backend, found, known_as, width) if found and known_as else None
            if section is not None and section.price is not None:
                return section.price.price()
        if self.default_price is None:
            raise SettingsError(
                f"backends.{backend}.discover: found {name} and nothing prices it, "
                f"expected an entry in models with a price, or default_price",
                param=f"backends.{backend}.discover",
            )
        return self.default_price.price()

    def _overridden(self, found: Model, section: ModelSection) -> Model:
        """The found model with every field the document sets."""
        price = section.price.price() if section.price else found.price
        listed = self._candidate(section, price, self._listed.get(section.name))
        written = section.model_fields_set - {"price", "backend", "drain", "max_output_tokens", "capacity", "limits"}
        taken = {key: getattr(listed, key) for key in written if getattr(section, key) is not None}
        for key in (
            "context_tokens",
            "capabilities",
            "lacks",
            "parent",
            "bits",
            "parameters",
            "extra_body",
            "bytes_per_token",
        ):
            taken.setdefault(key, getattr(found, key))
        longest = section.max_output_tokens or found.max_output_tokens
        taken.setdefault("local", found.local)
        return Model(
            name=section.name,
            backend=found.backend,
            upstream=found.upstream,
            price=listed.price,
            max_output_tokens=min(longest, taken["context_tokens"]),
            budgets=listed.budgets,
            limits=listed.limits,
            draining=listed.draining,
            **{key: value for key, value in taken.items() if key not in {"name", "upstream"}},
        )

    def static_keys(self) -> tuple[StaticKey, ...]:
        """The keys this document brings that may be used, with everything their tenant and team add."""
        keys = ((name, key) for name, tenant in self.tenants.items() for key in tenant.keys)
        found = ((key.secret, self._principal(name, key)) for name, key in keys)
        return tuple(StaticKey(secret, principal) for secret, principal in found if principal is not None)

    def _principal(self, tenant: str, key: KeySection) -> Principal | None:
        identity = key.name or key_id(key.secret.get_secret_value())
        bare = Principal(identity, tenant, key.team, admin=key.admin)
        return narrowed(bare, [grouped(f"key:{identity}", key, self.models), *self._levels(tenant, key.team)])

    def _levels(self, tenant: str, team: str | None) -> Iterator[Level]:
        """What this document says of a team and its tenant."""
        section = self.tenants.get(tenant)
        if section is None:
            return
        if team in section.teams:
            yield grouped(f"team:{team}", section.teams[team], self.models)
        yield grouped(f"tenant:{tenant}", section, self.models)

    def on_request(self) -> frozenset[str]:
        """Policies a request may name: those the operator has chosen somewhere, and those that cost next to nothing."""
        chosen = {self.policy.name, *self.policy.options}
        for tenant in self.tenants.values():
            chosen |= {name for name in (tenant.policy, *(key.policy for key in tenant.keys)) if name}
        return frozenset(chosen.union(self.policy.on_request))

    def worth_usd(self) -> float:
        """What a full point of quality on one request is worth at preference 0.5, in USD."""
        if self.preference.reference_usd is not None:
            return self.preference.reference_usd
        packaged = all(isinstance(each, EmbeddedSection) and not each.stores for each in self.backends.values())
        return FAMILY_WORTH_USD if packaged else USUAL_WORTH_USD

    def anonymous(self) -> Principal | None:
        """Who a caller without a key is; None where keys are required, or the tenant is disabled."""
        return None if self.auth.required else self.completed(Principal("anonymous", self.auth.tenant))

    def completed(self, principal: Principal) -> Principal | None:
        """A principal with what this document says of its tenant and team added; None where they are disabled."""
        widened = replace(principal, allowed_models=spread(principal.allowed_models, self.models))
        return narrowed(widened, self._levels(principal.tenant, principal.team))

    def lists(self, backend: str, upstream: str, name: str, bits: float | None) -> bool:
        """Whether `models` has an entry for this model of a backend."""
        return self._section(backend, upstream, name, bits) is not None


def _no_list(_: str) -> Listed | None:
    """What a list says that is not there."""
    return None


def key_id(secret: str) -> str:
    """k_ and twelve hexadecimal digits of the key's SHA-256: tells keys apart and reveals nothing."""
    return f"k_{hashlib.sha256(secret.encode()).hexdigest()[:12]}"
