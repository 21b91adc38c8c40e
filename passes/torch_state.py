"""One lock for what torch keeps for the whole process: the random state, backend flags, and what fx patches.

Whoever changes such a thing for a while holds the lock until it is back, so that conversions in several threads take
turns there and do not see each other's changes.
"""

from __future__ import annotations

import threading

TORCH_STATE = threading.RLock()
