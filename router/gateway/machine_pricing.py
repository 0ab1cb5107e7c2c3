"""What a token costs on machines whose price the operator named: learned seconds times USD a second.

Before an engine answered anything the seconds are the roofline's, at the load of the moment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from backends.discovery import Machine, Speed, roofline
from policies.estimators.machine_time import KEPT, TokenSeconds, blended
from policies.estimators.means import PRIOR_COMPLETION_TOKENS
from policies.types import MeasuredCost
from router.gateway.types import GENERIC_BYTES_PER_TOKEN
from router.learning.machine_time import MachineTimeAccounting
from router.types import Model

USUAL_MACHINE = Machine(flops=4e14, bandwidth=2e12)  # half of what an H100 may do
LOCAL_MACHINE = Machine(flops=2e10, bandwidth=1e10)  # one core running the embedded family
USUAL_PARAMETERS = 7e9
_LISTED = (float("nan"),) * 3


@dataclass(frozen=True, slots=True)
class MachineRate:
    """What the machines of one backend cost."""

    usd_per_hour: float  # of one engine, with all its accelerators
    engines: int = 1


@dataclass(frozen=True, slots=True)
class LearnedPrice:
    """USD for one token, and how many measured answers it rests on."""

    prompt_usd: float
    completion_usd: float
    answers: int


class MachinePricing:
    """Prices tokens. `rates` by backend may be replaced in place when settings change."""

    def __init__(self, rates: dict[str, MachineRate]) -> None:
        self.rates = rates
        self.machine_time = MachineTimeAccounting(self._engines)

    def take(self, rates: Mapping[str, MachineRate]) -> None:
        """These rates from now on; what was measured stays."""
        self.rates.clear()
        self.rates.update(rates)

    def seconds(self, model: Model) -> TokenSeconds | None:
        """Seconds of a machine for one token of this model; None where nobody named its machine's price."""
        rate = self.rates.get(model.backend)
        if rate is None:
            return None
        measured = self.machine_time.time.measured(model.name)
        if measured is not None and measured.answers >= KEPT:
            return measured
        return blended(self._prior(model, rate), measured)

    def price(self, model: Model) -> LearnedPrice | None:
        """What a token of this model costs; None where the list price is all there is."""
        seconds = self.seconds(model)
        if seconds is None:
            return None
        usd_per_s = self.rates[model.backend].usd_per_hour / 3600.0
        return LearnedPrice(seconds.prompt * usd_per_s, seconds.completion * usd_per_s, seconds.answers)

    def of(self, models: Sequence[Model]) -> MeasuredCost | None:
        """As policies want it, with prompt prices for generic tokens of four bytes; None where no rate is known."""
        if not self.rates:
            return None
        rows = [self._row(model) for model in models]
        if all(row is _LISTED for row in rows):
            return None
        return MeasuredCost(*np.array(rows).T)

    def _row(self, model: Model) -> tuple[float, float, float]:
        price = self.price(model)
        if price is None:
            return _LISTED
        tokens = self.machine_time.time.completion_tokens(model.name) if model.price.completion == 0 else None
        prompt_usd = price.prompt_usd * GENERIC_BYTES_PER_TOKEN / model.bytes_per_token
        return prompt_usd, price.completion_usd, PRIOR_COMPLETION_TOKENS if tokens is None else tokens

    def _prior(self, model: Model, rate: MachineRate) -> TokenSeconds:
        running = max(1.0, self.machine_time.running(model.backend) / rate.engines)
        speed = prior_speed(model, running=running)
        return TokenSeconds(1.0 / speed.prefill_tokens_s, 1.0 / (speed.decode_tokens_s * running))

    def _engines(self, backend: str) -> int:
        rate = self.rates.get(backend)
        return 0 if rate is None else rate.engines


def prior_speed(model: Model, *, running: float = 1.0) -> Speed:
    """The roofline of a usual machine for this model: what is believed before anything is measured."""
    machine = LOCAL_MACHINE if model.bytes_per_token == 1.0 else USUAL_MACHINE
    parameters = model.parameters or USUAL_PARAMETERS
    return roofline(machine, parameters=parameters, bits=model.bits or 16.0, running=running)
