"""What breaks in a world, each by the seed: processes, machines, stores, clocks, settings and engines."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from benchmarks.worlds.database import SqliteWorldStore, remember
from benchmarks.worlds.redis_store import RedisWorldStore
from router.types import NanoUsd, Price

if TYPE_CHECKING:
    from benchmarks.worlds.world import SeededWorld

WITHIN_S = 12.0  # all requests come within, and troubles begin within
CONFIRMS_S = 10.0
Trouble = Coroutine[Any, Any, None]


def troubles_of(world: SeededWorld) -> list[Trouble]:
    """Those of this seed."""
    chance = world.chance
    found = [
        kill(world, name, at_s=_when(chance), steps=chance.choice((chance.randint(1, 40), chance.randint(1, 400))))
        for name in list(world.gateways)
        if chance.random() < 0.5
    ]
    for _ in range(chance.choice((0, 0, 1, 3))):
        found.append(reload(world, _when(chance)))
    if chance.random() < 0.3:
        found.append(heal(world, _when(chance)))
    if isinstance(world.store, SqliteWorldStore):
        return found + _of_the_machine(world)
    return found + _of_redis(world, world.store)


def _when(chance: random.Random) -> float:
    return chance.random() * WITHIN_S


def _of_the_machine(world: SeededWorld) -> list[Trouble]:
    chance, found = world.chance, list[Trouble]()
    if chance.random() < 0.2:
        found.append(power_cut(world, _when(chance), lost_s=chance.random() * 1.5))
    if chance.random() < 0.15:
        by_s = chance.choice((-1, 1)) * chance.uniform(70.0, 3000.0)
        found.append(jump(world, _when(chance), by_s=by_s, confirms=chance.random() < 0.5))
    return found


def _of_redis(world: SeededWorld, store: RedisWorldStore) -> list[Trouble]:
    """Two losses at once are not promised to be survived, nor one where gateways keep nothing on their disks."""
    chance = world.chance
    ways: tuple[Callable[[float], Trouble], ...] = (
        lambda at_s: lose(world, store, at_s, lost_s=chance.random()),
        lambda at_s: promote(world, store, at_s, behind_s=chance.uniform(0.5, 6.0)),
        lambda at_s: stall(world, store, at_s, for_s=chance.choice((0.5, 3.0, 30.0))),
        lambda at_s: cut(world, store, at_s, for_s=chance.choice((0.3, 2.5, 8.0))),
        lambda at_s: mute(world, store, at_s, for_s=chance.choice((0.5, 3.0, 8.0))),
    )
    some = ways if store.has_disks else ways[2:]
    return [chance.choice(some)(_when(chance)) for _ in range(chance.choice((0, 1, 1)))]


async def kill(world: SeededWorld, name: str, *, at_s: float, steps: int) -> None:
    """Within so many steps from then on: between any two of them. Another one opens in its place."""
    await asyncio.sleep(at_s)
    process = world.gateways[name].process
    process.steps = steps
    await asyncio.sleep(2.0)
    if not process.alive:
        await world.open(f"{name}'", host=process.host, after_s=world.chance.random() * 8)


async def power_cut(world: SeededWorld, at_s: float, *, lost_s: float) -> None:
    """The machine loses its power, and the disk what was written in its last moments."""
    await asyncio.sleep(at_s)
    assert isinstance(world.store, SqliteWorldStore)
    kept, since_s = remember(world.store.path), world.loop.time()
    await asyncio.sleep(lost_s)
    for gateway in list(world.gateways.values()):
        gateway.process.die()
    world.store.forget_since(kept)
    world.lost_s.append((since_s, world.loop.time()))
    world.say(f"the disk forgets since {since_s:.4f}")
    await world.open("after", after_s=0.5)


async def jump(world: SeededWorld, at_s: float, *, by_s: float, confirms: bool) -> None:
    """The machine's clock is set wrong; then it is set right, or somebody says that it is right."""
    await asyncio.sleep(at_s)
    world.loop.ahead_s += by_s
    world.away.append("clock")
    world.say(f"the clock jumps by {by_s:.1f} s")
    await asyncio.sleep(world.chance.uniform(0.5, 5.0))
    if not confirms:
        world.loop.ahead_s -= by_s
        world.say("the clock is set right")
        return
    for gateway in [each for each in world.gateways.values() if each.process.alive and each.stores.clock][:1]:
        assert gateway.stores.clock is not None
        confirming = world.loop.spawn(gateway.process, gateway.stores.clock.confirm_clock("somebody"))
        await asyncio.wait([confirming], timeout=CONFIRMS_S)  # the dead confirm nothing
        world.say("the clock is confirmed")


async def lose(world: SeededWorld, store: RedisWorldStore, at_s: float, *, lost_s: float) -> None:
    """Redis's machine dies, and its disk has not what was last written."""
    await asyncio.sleep(at_s)
    kept = store.server.copied()
    await asyncio.sleep(lost_s)
    _begin_away(world, store, f"redis forgets since {at_s:.4f}")
    await asyncio.sleep(world.chance.uniform(0.05, 3.0))
    store.server.restart(kept)
    store.network.up = True
    world.say("redis is back")


async def promote(world: SeededWorld, store: RedisWorldStore, at_s: float, *, behind_s: float) -> None:
    """A replica that is behind takes the place of a primary that dies."""
    await asyncio.sleep(at_s)
    kept, offset = store.server.copied(), store.server.offset
    store.server.replica = offset
    await asyncio.sleep(behind_s)
    _begin_away(world, store, f"redis dies, its replica has nothing since {at_s:.4f}")
    await asyncio.sleep(world.chance.uniform(0.05, 3.0))
    store.server.promote(kept, offset)
    store.network.up = True
    world.say("the replica is promoted")


def _begin_away(world: SeededWorld, store: RedisWorldStore, what: str) -> None:
    world.away.append("lost")
    world.say(what)
    store.network.up = False
    store.network.hang_up()


async def stall(world: SeededWorld, store: RedisWorldStore, at_s: float, *, for_s: float) -> None:
    """Redis answers nobody for a while, and then does all that it was asked."""
    await asyncio.sleep(at_s)
    world.away.append("stall")
    world.say(f"redis stalls for {for_s} s")
    store.network.stalled_until_s = world.loop.time() + for_s
    await asyncio.sleep(for_s)


async def cut(world: SeededWorld, store: RedisWorldStore, at_s: float, *, for_s: float) -> None:
    """One gateway's packets get lost for a while."""
    await asyncio.sleep(at_s)
    name = world.chance.choice(sorted(world.gateways))
    world.away.append("cut")
    world.say(f"{name} is cut off from redis for {for_s} s")
    store.network.cut.add(name)
    await asyncio.sleep(for_s)
    store.network.cut.discard(name)
    store.network.hang_up([name])


async def mute(world: SeededWorld, store: RedisWorldStore, at_s: float, *, for_s: float) -> None:
    """For a while connections break now and then, after Redis has done what it was asked: nobody hears of it."""
    await asyncio.sleep(at_s)
    world.away.append("mute")
    world.say(f"replies of redis get lost for {for_s} s")
    store.network.loses = 0.2
    await asyncio.sleep(for_s)
    store.network.loses = 0.0


async def reload(world: SeededWorld, at_s: float) -> None:
    """Other settings: a model drains or comes back, prices, budgets or the usual policy change."""
    await asyncio.sleep(at_s)
    chance, models = world.chance, world.models
    match chance.choice(("drain", "price", "terms", "policy")):
        case "drain":
            draining = chance.random() < 0.5
            world.drained = world.drained or draining
            models = tuple(replace(each, draining=draining and each.name == "large") for each in models)
        case "price":
            times = chance.choice((0.5, 2.0, 10.0))
            models = tuple(replace(each, price=_times(each.price, times)) for each in models)
        case "terms":
            world.renew_terms(chance.choice(sorted(world.tenants)))
        case _:
            world.policy = chance.choice(world.policies)
    world.renew_models(models)


def _times(price: Price, factor: float) -> Price:
    return replace(
        price, prompt=NanoUsd(int(price.prompt * factor)), completion=NanoUsd(int(price.completion * factor))
    )


async def heal(world: SeededWorld, at_s: float) -> None:
    """From now on engines do what they should."""
    await asyncio.sleep(at_s)
    world.say("the engines are calm")
    for engine in world.engines.values():
        engine.calm = True
