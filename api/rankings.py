"""Reading the ranking: tops, pages, ranks, those around a player or a score, many players at once.

Every number is exact when it is counted, and the answer says so or what else it is (`rank_is`): `exact`; `recent`,
where players were changing shards all the while and the rank may be off by those; `partial`, where the caller takes an
answer (`?partial=ok`) although shards are missing, so that their players are not counted. Without that word a shard
that does not answer makes it 503. `as_of` is the moment the reading began: what was acknowledged before it is in it.
Where a period's keys are gone, its final ranking is read (finals.py): `final`, and `as_of` is when it was closed.

The top is what most requests ask for, so each process reads it only every so often (sharding/tops.py) and encodes it
once for each length asked for.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal
from urllib.parse import urlencode

import msgspec
from msgspec import UNSET, UnsetType

from api import schemas
from api.auth import Scope
from api.boards import Asked, BoardRules
from api.endpoints import BASE, Endpoint
from api.finals import FinalPage, FinalStanding, FinalStandings, Rankings
from api.names import Found, Names
from api.periods import on_board
from api.requests import Call
from runtime.deadlines import Deadline
from sharding.errors import InvalidValue, NotOnBoard
from sharding.leaderboard import TOP_LENGTH, Page, RankStyle, Row, Standing, Standings
from sharding.players import PlayerId, parse_player_id
from sharding.scores import POINTS_LIMIT

PATH = f"{BASE}/scores"
_MOST_ENCODED = 1_000

_encoder = msgspec.json.Encoder()


class RankingAnswers:
    """What is answered about rankings."""

    def __init__(self, rankings: Rankings, rules: BoardRules, names: Names) -> None:
        self._rankings = rankings
        self._rules = rules
        self._names = names
        self._encoded: dict[tuple[str, str, int], tuple[Page, msgspec.Raw]] = {}

    def endpoints(self) -> list[Endpoint]:
        """The addresses of rankings."""
        return [
            Endpoint(
                method="GET",
                path=PATH,
                answer=self.page,
                summary="The top of a board, or any part of its ranking",
                query=schemas.PageQuery,
                gives=schemas.Entries,
                scope=Scope.READ,
                refuses=(404, 422),
            ),
            Endpoint(
                method="GET",
                path=f"{PATH}/around",
                answer=self.around,
                summary="The players around a score, whether or not anybody has it",
                query=schemas.AroundQuery,
                gives=schemas.Entries,
                scope=Scope.READ,
                refuses=(404, 422),
            ),
            Endpoint(
                method="POST",
                path=f"{PATH}/lookup",
                answer=self.lookup,
                summary="Up to 500 players: their ranks on the board and their positions among each other",
                query=schemas.LookupQuery,
                takes=schemas.Lookup,
                gives=schemas.LookedUp,
                scope=Scope.READ,
                refuses=(404,),
            ),
            Endpoint(
                method="GET",
                path=f"{PATH}/<user_id>",
                answer=self.standing,
                summary="A player's exact rank",
                query=schemas.StandingQuery,
                gives=schemas.Standing,
                scope=Scope.READ,
                refuses=(404, 422),
            ),
            Endpoint(
                method="GET",
                path=f"{PATH}/<user_id>/surrounding",
                answer=self.surrounding,
                summary="A player and those ranked around",
                query=schemas.SurroundingQuery,
                gives=schemas.Entries,
                scope=Scope.READ,
                refuses=(404, 422),
            ),
        ]

    # -- pages

    def page(self, call: Call[schemas.PageQuery, None]) -> schemas.Entries | msgspec.Raw:
        """Consecutive rows: from an offset on, behind a cursor, or between two scores."""
        query = call.query
        _refuse_mixtures(query)
        style, partial = query.rank_style, query.partial is not None
        with self._rules.asked_for(query) as asked:
            if query.cursor is not None:
                page = self._rankings.page_after(
                    asked.name, query.cursor, query.limit, call.deadline, style=style, partial=partial
                )
            elif query.min_score is not None or query.max_score is not None:
                lowest, highest = _bounded(query.min_score), _bounded(query.max_score)
                page = self._rankings.between(
                    asked.name,
                    lowest,
                    highest,
                    query.offset,
                    query.limit,
                    call.deadline,
                    style=style,
                    partial=partial,
                )
            elif _is_plain(query):
                return self._top(asked, call)
            else:
                page = self._rankings.top(
                    asked.name, query.offset, query.limit, call.deadline, style=style, partial=partial
                )
            answer = self._entries(asked, page)
        _add_following(answer, query)
        return answer

    def _top(self, asked: Asked, call: Call[schemas.PageQuery, None]) -> msgspec.Raw:
        """The first rows, as this process has read and encoded them a moment ago."""
        return self.encoded_top(asked, self.recent_top(asked, call.deadline), call.query)

    def recent_top(self, asked: Asked, deadline: Deadline) -> Page:
        """The first TOP_LENGTH rows, as they were a moment ago."""
        return self._rankings.recent_top(asked.name, deadline)

    def encoded_top(self, asked: Asked, page: Page, query: schemas.PageQuery) -> msgspec.Raw:
        """The answer that begins such a page, encoded once for each length asked for."""
        key = (asked.name.board, asked.name.period, query.limit)
        known = self._encoded.get(key)
        if known is not None and known[0] is page:
            return known[1]
        answer = self._entries(asked, self._rankings.beginning(page, query.limit))
        _add_following(answer, query)
        encoded = msgspec.Raw(_encoder.encode(answer))
        if answer.names is UNSET:  # else the names may be there the next time
            if len(self._encoded) >= _MOST_ENCODED:
                self._encoded.clear()
            self._encoded[key] = (page, encoded)
        return encoded

    def around(self, call: Call[schemas.AroundQuery, None]) -> schemas.Entries:
        """The players around a score; at the ends of the board, the window that fits."""
        query = call.query
        with self._rules.asked_for(query) as asked:
            page = self._rankings.around_score(
                asked.name,
                _within(query.score),
                query.limit,
                call.deadline,
                style=query.rank_style,
                partial=query.partial is not None,
            )
            return self._entries(asked, page)

    def surrounding(self, call: Call[schemas.SurroundingQuery, None], user_id: str) -> schemas.Entries:
        """A player, with as many others on each side as the board has and the query asks for."""
        player, query = parse_player_id(user_id), call.query
        with self._rules.asked_for(query) as asked:
            page = self._rankings.surrounding(
                asked.name,
                player,
                query.offset,
                call.deadline,
                style=query.rank_style,
                partial=query.partial is not None,
            )
            answer = self._entries(asked, page)
        for entry in answer.entries:
            entry.is_current_user = entry.user_id == player
        return answer

    def _entries(self, asked: Asked, page: Page) -> schemas.Entries:
        found = self._names.of([row.player for row in page.rows])
        return schemas.Entries(
            total_players=page.total,
            as_of=_moment(page.as_of_ms),
            rank_is=_rank_is(page),
            missing_shards=len(page.missing) or UNSET,
            matching_players=UNSET if page.matching is None else page.matching,
            entries=[_entry(row, rank, found) for row, rank in zip(page.rows, page.ranks, strict=True)],
            cursor=self._rankings.cursor(asked.name, page) or UNSET,
            names=_names(found),
            final=isinstance(page, FinalPage) or UNSET,
            **on_board(asked.board, asked.period),
        )

    # -- players

    def standing(self, call: Call[schemas.StandingQuery, None], user_id: str) -> schemas.Standing:
        """A player's exact rank."""
        player, query = parse_player_id(user_id), call.query
        with self._rules.asked_for(query) as asked:
            standing = self._rankings.standing(
                asked.name, player, call.deadline, style=query.rank_style, partial=query.partial is not None
            )
        found = self._names.of([player])
        profile = found.players.get(player)
        return schemas.Standing(
            user_id=player,
            display_name=profile.display_name if profile else None,
            score=standing.row.points,
            rank=standing.rank,
            rank_is=_rank_is(standing),
            missing_shards=len(standing.missing) or UNSET,
            percentile=standing.percentile,
            total_players=standing.total,
            as_of=_moment(standing.as_of_ms),
            names=_names(found),
            final=isinstance(standing, FinalStanding) or UNSET,
            **on_board(asked.board, asked.period),
        )

    def lookup(self, call: Call[schemas.LookupQuery, schemas.Lookup]) -> schemas.LookedUp:
        """Many players; one who is named twice is listed once."""
        players, partial = _named_players(call.body.user_ids), call.query.partial is not None
        with self._rules.asked_for(call.query) as asked:
            looked_up = self._rankings.standings(asked.name, players, call.deadline, partial=partial)
        there: list[Standing] = []
        not_found, not_reached = [], []
        for player, standing in zip(players, looked_up.told, strict=True):
            if isinstance(standing, Standing):
                there.append(standing)
            elif isinstance(standing, NotOnBoard):
                not_found.append(player)
            elif partial:
                not_reached.append(player)
            else:
                raise standing
        there.sort(key=lambda standing: standing.row.rank)
        found = self._names.of([standing.row.player for standing in there])
        return schemas.LookedUp(
            total_players=looked_up.total,
            as_of=_moment(looked_up.as_of_ms),
            rank_is=_rank_is(looked_up),
            missing_shards=len(looked_up.missing) or UNSET,
            entries=[
                schemas.LookedUpEntry(position=position, **_fields(standing.row, standing.row.rank, found))
                for position, standing in enumerate(there, start=1)
            ],
            not_found=list(not_found),
            not_reached=list(not_reached) or UNSET,
            names=_names(found),
            final=isinstance(looked_up, FinalStandings) or UNSET,
            **on_board(asked.board, asked.period),
        )


def _named_players(user_ids: Sequence[str]) -> list[PlayerId]:
    """The players who are named, each once; InvalidValue says which of them cannot be one."""
    players: dict[PlayerId, None] = {}
    for index, user_id in enumerate(user_ids):
        try:
            players[parse_player_id(user_id)] = None
        except InvalidValue as error:
            raise InvalidValue(error.detail, field=f"user_ids[{index}]") from None
    return list(players)


def _refuse_mixtures(query: schemas.PageQuery) -> None:
    """A page is named in one way, and means one thing."""
    between = query.min_score is not None or query.max_score is not None
    if query.cursor is not None and (query.offset or between):
        raise InvalidValue("a cursor says where the page begins: leave offset and scores out", field="cursor")
    if query.min_score is not None and query.max_score is not None and query.min_score > query.max_score:
        raise InvalidValue("min_score is above max_score", field="min_score")


def _is_plain(query: schemas.PageQuery) -> bool:
    """Whether the page is one that many ask for."""
    return (
        query.offset == 0
        and query.limit <= TOP_LENGTH
        and query.partial is None
        and query.rank_style is RankStyle.ORDINAL
    )


def _add_following(answer: schemas.Entries, query: schemas.PageQuery) -> None:
    """The address of the rows that follow, with what else was asked for."""
    following: dict[str, int | str | None] = {"limit": query.limit}
    if query.cursor is not None:
        if answer.cursor is UNSET:
            return
        following["cursor"] = answer.cursor
    else:
        end = query.offset + len(answer.entries)
        matching = answer.total_players if answer.matching_players is UNSET else answer.matching_players
        if not answer.entries or end >= matching:
            return
        following["offset"] = end
    following |= {
        "board": query.board if query.board != "global" else None,
        "month": query.month,
        "period": query.period,
        "min_score": query.min_score,
        "max_score": query.max_score,
        "rank_style": query.rank_style.value if query.rank_style is not RankStyle.ORDINAL else None,
        "partial": query.partial,
    }
    named = {name: value for name, value in following.items() if value is not None}
    answer.next = f"{PATH}?{urlencode(named)}"


def _within(points: int) -> int:
    """Points that a board can hold: whatever is beyond them lies at the same end."""
    return min(max(points, 1 - POINTS_LIMIT), POINTS_LIMIT - 1)


def _bounded(points: int | None) -> int | None:
    return None if points is None else _within(points)


def _entry(row: Row, rank: int, found: Found) -> schemas.Entry:
    return schemas.Entry(**_fields(row, rank, found))


def _fields(row: Row, rank: int, found: Found) -> schemas.Ranked:
    profile = found.players.get(row.player)
    return {
        "rank": rank,
        "user_id": row.player,
        "username": profile.username if profile else None,
        "display_name": profile.display_name if profile else None,
        "avatar_url": profile.avatar_url if profile else None,
        "score": row.points,
    }


def _rank_is(read: Page | Standing | Standings) -> Literal["exact", "recent", "partial"]:
    if read.missing:
        return "partial"
    return "exact" if read.settled else "recent"


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def _names(found: Found) -> Literal["unavailable"] | UnsetType:
    return UNSET if found.complete else "unavailable"
