"""What an operator expects of answers on a route: a text, or a pattern that is found in it; touches nothing."""

from __future__ import annotations

from dataclasses import dataclass

from router.learning.graders.validators import Grade, grade_exact, grade_regex


@dataclass(frozen=True, slots=True)
class AnswerRule:
    """One rule; `exact` or `regex` is given."""

    route: str | None = None  # NAME of auto:NAME, `auto`, or the model that the client named; None: every route
    tenants: frozenset[str] | None = None  # None: all
    exact: str | None = None
    regex: str | None = None

    def holds_for(self, route: str, tenant: str) -> bool:
        """Whether answers of this route to this tenant are held to it."""
        return self.route in (None, route) and (self.tenants is None or tenant in self.tenants)

    def grade(self, answer: str) -> Grade:
        """The grade of an answer's text."""
        if self.exact is not None:
            return grade_exact(answer, self.exact)
        return grade_regex(answer, self.regex or "")
