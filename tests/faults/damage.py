"""Damage that two failures at once could do, done by hand: keys are written behind everybody's back."""

from typing import Any

from faults.rig import Rig

from runtime.deadlines import Deadline
from sharding.boards import BoardPeriod
from sharding.cluster.client import Call
from sharding.directory import Entry
from sharding.leaderboard import RankMode, Submission
from sharding.players import PlayerId, member_of
from sharding.submissions import Status


class Damage:
    """The board of a rig, as a vandal sees it."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig

    def command(self, slot: int, *words: Any) -> Any:
        """The reply to a plain command."""
        answer = self.rig.leaderboard.functions.on_keys([Call(slot, words)], Deadline.after(10))[0]
        assert answer.error is None, answer.error
        return answer.reply

    def play(self, player: str, *values: int) -> Entry:
        """Submissions of a player, one after the other, and where they lead."""
        name: BoardPeriod = self.rig.shard_map.name
        for number, value in enumerate(values):
            submission = Submission(PlayerId(player), value, f"{player}-{number}")
            result = self.rig.leaderboard.submit(name, [submission], Deadline.after(10), rank=RankMode.NONE)[0]
            assert result.status is Status.APPLIED
            self.rig.leaderboard.strays.bring_home(Deadline.after(10))
        entry = self.entry(player)
        assert entry is not None
        return entry

    def entry(self, player: str) -> Entry | None:
        """What the directory has stored."""
        located = self.rig.leaderboard.directory.locate(
            self.rig.shard_map, [member_of(PlayerId(player))], Deadline.after(10), fresh=True
        )
        return located.of(member_of(PlayerId(player)))

    def set_entry(self, player: str, entry: Entry | None) -> None:
        """Overwrite the directory, or take the entry out."""
        slot, key = self.rig.shard_map.directory.bucket(member_of(PlayerId(player)))
        if entry is None:
            self.command(slot, "HDEL", key, player)
        else:
            self.command(slot, "HSET", key, player, f"{entry.shard}:{entry.epoch}")

    def set_row(self, player: str, shard: int, packed: int, epoch: int) -> None:
        """Put a row into a shard, whatever else there is."""
        keys = self.rig.shard_map.keys(shard)
        self.command(keys.slot, "ZADD", keys.rows, packed, player)
        if epoch > 1:
            self.command(keys.slot, "HSET", keys.epochs, player, epoch)
        else:
            self.command(keys.slot, "HDEL", keys.epochs, player)

    def packed(self, player: str, shard: int) -> int | None:
        """The player's packed score in this shard."""
        keys = self.rig.shard_map.keys(shard)
        reply = self.command(keys.slot, "ZSCORE", keys.rows, player)
        return None if reply is None else int(float(reply))

    def lose_row(self, player: str, shard: int) -> None:
        """Take everything away that the shard knows of the player."""
        keys = self.rig.shard_map.keys(shard)
        self.command(keys.slot, "ZREM", keys.rows, player)
        for key in [keys.epochs, keys.leaving, *self.windowed(shard)]:
            self.command(keys.slot, "HDEL", key, player)

    def windowed(self, shard: int) -> list[str]:
        """The shard's keys of recent events and tombstones."""
        keys = self.rig.shard_map.keys(shard)
        names: list[str] = []
        owner = self.rig.leaderboard.client.owner(keys.slot)
        assert owner is not None
        with self.rig.node(self.rig.name_of(owner)) as node:
            for kind in ("recent", "gone"):
                names += [key.decode() for key in node.keys(keys.prefix.replace("[", "\\[") + kind + ":*")]
        return names
