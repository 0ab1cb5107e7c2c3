"""Spaces of the embedder: fitted aside on what is kept of the queries, published once, the same for all gateways.

A space is known by the sum of what was learned, so nothing damaged is taken in. What cannot be read from the file is
fetched from the archive again, and what is nowhere whole is fitted anew. Store failures are StoreUnavailable.
"""

from __future__ import annotations

import asyncio
import io
import logging
import re
import secrets
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.embedders.hashing import HashingEmbedder
from policies.types import Float32
from router.learning import histories
from router.learning.arrays import save_arrays
from router.learning.fit_worker import fit_elsewhere
from router.ports import Archive
from router.types import Notice

LOG = logging.getLogger("pointsman.learning")
COUNTS, EMBEDDER, KNOWN, CLAIMS, SECRET = "counts", "embedder", "spaces", "claims", "secret"  # rooms of the archive
ARRAYS = ("kept", "projection", "scales")
FIRST_FIT = 400  # texts
CLAIMED_S = 600.0  # how long the others leave a fit to the one gateway that claimed it
A_CHUNK = 1 << 20  # bytes of a published space in one thing of the archive
LATE_S = 0.5  # counts may be kept this much after the decision they are of
_IS_SUM = re.compile(r"[0-9a-f]{16}").fullmatch
State = dict[str, NDArray[Any]]


async def secret_of(archive: Archive) -> bytes:
    """The installation's own: made when it is first asked for. Raises: StoreUnavailable."""
    await archive.put(SECRET, "installation", {"features": secrets.token_bytes(32)})
    return next(iter([found.body async for found in archive.each(SECRET, "installation")]))


class Spaces:
    """Keeps counts, fits the embedder on them, and moves it. `forget` drops vectors that others remember."""

    def __init__(
        self,
        embedder: HashingEmbedder,
        archive: Archive,
        *,
        folder: Path | None,
        most: int,
        forget: Callable[[], None] = lambda: None,
    ) -> None:
        self.embedder = embedder
        self.forget = forget
        self._archive, self._folder, self._most = archive, folder, most

    # what is kept of a text

    async def flush(self) -> None:
        """Keep what was noted. Raises: StoreUnavailable, and then it still waits."""
        waiting, self.embedder.noted = self.embedder.noted, {}
        for tenant in list(waiting):
            try:
                await self._archive.put(COUNTS, tenant, waiting[tenant], most=self._most)
                del waiting[tenant]
            except BaseException:
                for left, things in waiting.items():
                    self.embedder.noted.setdefault(left, {}).update(things)
                raise

    async def forget_tenant(self, tenant: str) -> int:
        """Forget the counts of a tenant's texts; how many there were. Raises: StoreUnavailable."""
        self.embedder.noted.pop(tenant, None)
        return await self._archive.drop(COUNTS, tenant)

    async def vectors(self, texts: Sequence[tuple[str, bytes]], state: State | None = None) -> Float32:
        """(n, d) of kept texts, by tenant and id, in the space of a state or the present one; zero where a text is not
        kept. Raises: StoreUnavailable."""
        wanted: dict[str, list[str]] = defaultdict(list)
        for tenant, text_id in texts:
            if text_id:
                wanted[tenant].append(text_id.hex())
        found: dict[tuple[str, str], bytes] = {}
        for tenant, names in wanted.items():
            history = histories.name_of(tenant)
            room, owner = (COUNTS, tenant) if history is None else (histories.ROOM, history)
            async for each in self._archive.each(room, owner, list(dict.fromkeys(names))):
                found[tenant, each.name] = each.body if history is None else histories.decode(each.body).counts
        return await asyncio.to_thread(self._embedded, [found.get((t, i.hex()), b"") for t, i in texts], state)

    def _embedded(self, counts: Sequence[bytes], state: State | None) -> Float32:
        embedder = self.embedder
        if state is not None:
            embedder = HashingEmbedder(embedder.dim)  # counts are under the key, and so is the state
            embedder.restore(state)
        out = np.zeros((len(counts), embedder.dim), np.float32)
        known = [row for row, each in enumerate(counts) if each]
        out[known] = embedder.embed_counts([counts[row] for row in known])
        return out

    async def late_vector(self, tenant: str, text_id: bytes) -> Float32:
        """(d,) of one text that another gateway may be about to keep. Raises: StoreUnavailable."""
        for wait_s in (0.0, LATE_S):
            await asyncio.sleep(wait_s)
            vector: Float32 = (await self.vectors([(tenant, text_id)]))[0]
            if vector.any():
                break
        return vector

    # fitting and publishing

    async def claim(self, space: str) -> bool:
        """Whether this gateway may fit after a space; another one may when that has taken too long.

        Raises: StoreUnavailable.
        """
        claim, now = space or "sketch", str(int(time.time()))
        if await self._archive.put(CLAIMS, claim, {"at": now.encode()}):
            return True
        at = [int(each.body) async for each in self._archive.each(CLAIMS, claim)]
        if at and time.time() - at[0] < CLAIMED_S:
            return False
        await self._archive.drop(CLAIMS, claim)
        return bool(await self._archive.put(CLAIMS, claim, {"at": now.encode()}))

    async def fit(self, texts: int) -> Notice | None:
        """Fit on all that is kept and publish it; None where there is too little. Raises: StoreUnavailable,
        RuntimeError."""
        await self.flush()
        counts = [histories.decode(each.body).counts async for each in self._archive.each(histories.ROOM)]
        counts += [each.body async for each in self._archive.each(COUNTS)]
        state = await fit_elsewhere(self.embedder.dim, [each for each in counts if each])
        if not state:
            return None
        name = sum_of(state)
        await self._publish(name, state)
        return Notice("embedder", name, texts)

    async def _publish(self, space: str, state: State) -> None:
        whole = io.BytesIO()
        save_arrays(whole, state)
        data = whole.getvalue()
        await self._archive.drop(EMBEDDER, space)  # it may have been damaged there
        for place in range(0, len(data), A_CHUNK):
            await self._archive.put(EMBEDDER, space, {f"{place:012}": data[place : place + A_CHUNK]})
        await self._archive.put(KNOWN, space, {"": b""})
        known = [each.owner async for each in self._archive.each(KNOWN)]
        for old in known[:-2]:  # the one before the last may still be on its way to somebody
            await self._archive.drop(EMBEDDER, old)
            await self._archive.drop(KNOWN, old)

    # loading

    async def load(self, space: str) -> State:
        """What was learned, mapped from the file that all workers share. Raises: LookupError, StoreUnavailable."""
        if not _IS_SUM(space):
            raise LookupError(f"{space!r} is no space")
        if (found := await asyncio.to_thread(self._mapped, space)) is not None:
            return found
        chunks = sorted([(each.name, each.body) async for each in self._archive.each(EMBEDDER, space)])
        state = await asyncio.to_thread(_unpacked, b"".join(body for _, body in chunks), space)
        return await asyncio.to_thread(self._shared, space, state)

    def use(self, space: str, state: State) -> None:
        """Embed in this space from now on. Raises: ValueError, KeyError."""
        self.embedder.restore(state, space=space)
        self.forget()

    def _mapped(self, space: str) -> State | None:
        """From the file, if it is whole."""
        if self._folder is None:
            return None
        try:
            found = {name: np.load(self._folder / space / f"{name}.npy", mmap_mode="r") for name in ARRAYS}
            return found if sum_of(found) == space else None
        except (OSError, ValueError):
            return None

    def _shared(self, space: str, state: State) -> State:
        """The same from a file that was just written, where one can be."""
        if self._folder is None:
            return state
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            fresh = Path(tempfile.mkdtemp(prefix=f"{space}.new-", dir=self._folder))
            for name, array in state.items():
                np.save(fresh / f"{name}.npy", array, allow_pickle=False)
            shutil.rmtree(self._folder / space, ignore_errors=True)
            fresh.rename(self._folder / space)
            self._tidy(keep=space)
        except OSError as error:
            LOG.warning("the embedder's space %s stays in memory: %s", space, error)
        return self._mapped(space) or state

    def _tidy(self, *, keep: str) -> None:
        """Remove all but the newest two; what somebody has mapped stays until it is let go."""
        others = [path for path in (self._folder or Path()).iterdir() if path.name != keep]
        for old in sorted(others, key=lambda path: path.stat().st_mtime)[:-1]:
            shutil.rmtree(old, ignore_errors=True)


def sum_of(state: State) -> str:
    """The name of a space: the sum of its arrays."""
    digest = blake2b(digest_size=8)
    for name in ARRAYS:
        digest.update(np.ascontiguousarray(state[name]).tobytes())
    return digest.hexdigest()


def _unpacked(data: bytes, space: str) -> State:
    """Raises: LookupError where these are not the bytes that were published."""
    try:
        with np.load(io.BytesIO(data)) as stored:
            state = {name: stored[name] for name in ARRAYS}
    except Exception as error:  # whatever NumPy says of bytes that may be anything
        raise LookupError(f"the space {space} is not whole in the archive: {error!r}") from error
    if sum_of(state) != space:
        raise LookupError(f"the space {space} is another one in the archive")
    return state
