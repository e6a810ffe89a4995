"""When an endpoint is set aside, and how it comes back. One small machine per endpoint; no clock, no chance inside.

    state       event                            next
    ----------  -------------------------------  ----------------------------------------------------------
    HEALTHY     success                          HEALTHY, errors forgotten
    HEALTHY     refused, timeout, broken         EJECTED at once   (unless it is the last: stays HEALTHY)
    HEALTHY     error, the fifth in a row        EJECTED           (unless too many are: stays HEALTHY)
    EJECTED     its time is over                 ON_TRIAL          one request at a time may try it
    EJECTED     success (of a panic pick)        HEALTHY, backoff forgotten
    EJECTED     any failure (of a panic pick)    EJECTED, unchanged: a panic must not lengthen the backoff
    ON_TRIAL    success                          HEALTHY, backoff forgotten
    ON_TRIAL    any failure                      EJECTED, for twice as long
    any         cancelled                        unchanged: it says nothing
    any         anything from before the last    unchanged: when an instance dies under 32 requests, their
                change of state                  32 failures are one piece of evidence, not 32

Ref: Finagle FailFastFactory (one failed connect marks an endpoint dead; 1 s doubled to 32 s; one probe at a
time); Envoy outlier detection (five consecutive 5xx; at most a tenth of the endpoints).
Differs: timeouts and broken connections count like refused ones, because the cells that we serve have 3 to 20
endpoints, where a rule that wants statistics never fires; the bound of a tenth is kept only for errors, which
are as often the request's fault or a common store's as the endpoint's.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from synod.base import SECOND, Micros, Rng

from ._view import Outcome


class HealthState(Enum):
    """Whether an endpoint gets requests."""

    HEALTHY = "healthy"
    EJECTED = "ejected"
    ON_TRIAL = "on trial"


@dataclass(frozen=True, slots=True)
class HealthOptions:
    """The numbers of the table above, each from where it is well tried.

    Args:
        ejection: first time aside [Finagle FailFast: 1 s]. Each lasts between half of its length and all of it
            (equal jitter), so that many clients do not try an endpoint at the same moment.
        ejection_max: longest time aside [Finagle FailFast: 32 s].
        consecutive_errors: errors in a row that eject [Envoy consecutive_5xx: 5].
        errors_ejected_percent_max: of the endpoints that errors may set aside, yet at least one
            [Envoy max_ejection_percent: 10].
    """

    ejection: Micros = SECOND
    ejection_max: Micros = 32 * SECOND
    consecutive_errors: int = 5
    errors_ejected_percent_max: int = 10


class Health:
    """The state of one endpoint.

    Invariant: `generation` rises with every change of state; a report that carries an older one is void.
    Invariant: `on_trial_in_flight` is only true ON_TRIAL.
    """

    __slots__ = ("_options", "ejected_until", "ejections", "errors", "generation", "on_trial_in_flight", "state")

    def __init__(self, options: HealthOptions) -> None:
        self._options = options
        self.state = HealthState.HEALTHY
        self.generation = 0
        self.errors = 0  # in a row
        self.ejections = 0  # in a row
        self.ejected_until: Micros = 0
        self.on_trial_in_flight = False

    @property
    def is_open(self) -> bool:
        """May ordinary picks choose it now?"""
        return self.state is HealthState.HEALTHY or (self.state is HealthState.ON_TRIAL and not self.on_trial_in_flight)

    def wake(self, now: Micros) -> bool:
        """Begin the trial when the time aside is over; True when something changed."""
        if self.state is not HealthState.EJECTED or now < self.ejected_until:
            return False
        self._become(HealthState.ON_TRIAL)
        return True

    def picked(self) -> None:
        """A request goes to the endpoint."""
        if self.state is HealthState.ON_TRIAL:
            self.on_trial_in_flight = True

    def observe(
        self,
        outcome: Outcome,
        *,
        generation: int,
        now: Micros,
        rng: Rng,
        is_last: bool,
        too_many: bool,
    ) -> bool:
        """Take in how a request went; True when the endpoint's state or openness changed.

        Args:
            outcome: what happened.
            generation: what `self.generation` was when the endpoint was picked.
            now: when.
            rng: for the jitter of an ejection.
            is_last: no other endpoint is healthy, so this one is not to be ejected.
            too_many: errors may not eject one more.
        """
        if generation != self.generation:
            return False
        if outcome is Outcome.CANCELLED:
            changed, self.on_trial_in_flight = self.on_trial_in_flight, False
            return changed
        if outcome is Outcome.SUCCESS:
            return self._succeeded()
        if self.state is HealthState.EJECTED:
            return False
        if self.state is HealthState.ON_TRIAL:
            self._eject(now, rng)
            return True
        return self._failed(outcome, now, rng, is_last=is_last, too_many=too_many)

    def _succeeded(self) -> bool:
        self.errors = 0
        self.ejections = 0
        if self.state is HealthState.HEALTHY:
            return False
        self._become(HealthState.HEALTHY)
        return True

    def _failed(self, outcome: Outcome, now: Micros, rng: Rng, *, is_last: bool, too_many: bool) -> bool:
        if outcome is Outcome.ERROR:
            self.errors += 1
            if self.errors < self._options.consecutive_errors or too_many:
                return False
        if is_last:
            return False
        self._eject(now, rng)
        return True

    def _eject(self, now: Micros, rng: Rng) -> None:
        self.ejections += 1
        doublings = min(self.ejections - 1, 32)  # 2**32 times any ejection is past every maximum
        length = min(self._options.ejection << doublings, self._options.ejection_max)
        self.ejected_until = now + length - rng.randrange(0, length // 2 + 1)
        self._become(HealthState.EJECTED)

    def _become(self, state: HealthState) -> None:
        self.state = state
        self.generation += 1
        self.errors = 0
        self.on_trial_in_flight = False
