"""LiteLLM's own configuration file, understood as it is: `model_list` becomes backends and models.

Entries of one model_name become replicas. OpenAI-compatible servers (hosted_vllm/, openai/ with api_base …) are called
directly, other providers through litellm. An entry that nothing prices, or that is no model of text, leaves the others
running: it is listed as not routable. What has no counterpart is noted by its own path; a limit of money that cannot be
kept stops the start.
"""

from router.settings.litellm_file.entries import Unroutable
from router.settings.litellm_file.includes import files_of, in_own_files, with_included
from router.settings.litellm_file.translation import Translated, is_litellm, translate

__all__ = ["Translated", "Unroutable", "files_of", "in_own_files", "is_litellm", "translate", "with_included"]
