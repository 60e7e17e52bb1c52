"""The state of JAX's traces, used to detect sampling inside a transformation."""

from collections.abc import Callable

import jax
import jax.extend

_NAME = "get_opaque_trace_state"
_HOME = jax.extend.core if hasattr(jax.extend.core, _NAME) else jax.core  # jax.core before 0.10
# Two states are equal if and only if no transformation began or ended between them.
trace_state: Callable[[], object] = getattr(_HOME, _NAME)
