"""Players: making them, one or many, reading who they are, changing, hiding and erasing them."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from secrets import token_hex
from typing import cast
from urllib.parse import quote, urlencode

import msgspec
from msgspec import UNSET
from sqlalchemy import Engine

from api import schemas
from api.auth import Scope
from api.endpoints import BASE, Endpoint, Reply
from api.names import Names
from api.requests import Call, NoQuery
from records import boards, players
from records.errors import Conflict, InvalidRecord, RecordsUnavailable
from records.players import NewPlayer, Player, PlayerChanges
from sharding.boards import BoardPeriod
from sharding.errors import NotEverywhereYet, Unavailable, UnknownPlayer
from sharding.leaderboard import Leaderboard
from sharding.periods import PeriodKind, names_around
from sharding.players import parse_player_id
from sharding.submissions import removal_of

PATH = f"{BASE}/users"
#: A period that has ended may be open for late matches, and the next one opens before it begins.
_BESIDE = timedelta(days=1)


class UserAnswers:
    """What is answered about players."""

    def __init__(self, engine: Engine, leaderboard: Leaderboard, names: Names) -> None:
        self._engine = engine
        self._leaderboard = leaderboard
        self._names = names

    def endpoints(self) -> list[Endpoint]:
        """The addresses of players."""
        return [
            Endpoint(
                method="POST",
                path=PATH,
                answer=self.create,
                summary="Make a player",
                takes=schemas.NewUser,
                gives=schemas.User,
                scope=Scope.WRITE,
                status=HTTPStatus.CREATED,
                refuses=(409,),
            ),
            Endpoint(
                method="POST",
                path=f"{PATH}:batch",
                answer=self.create_many,
                summary="Make up to 10,000 players; one bad item does not spoil the others",
                takes=schemas.NewUsers,
                gives=schemas.UserCreations,
                scope=Scope.WRITE,
            ),
            Endpoint(
                method="GET",
                path=PATH,
                answer=self.listing,
                summary="Players, by username",
                query=schemas.UsersQuery,
                gives=schemas.Users,
                scope=Scope.ADMIN,
            ),
            Endpoint(
                method="GET",
                path=f"{PATH}/<user_id>",
                answer=self.one,
                summary="A player",
                gives=schemas.User,
                scope=Scope.READ,
                refuses=(404,),
            ),
            Endpoint(
                method="PATCH",
                path=f"{PATH}/<user_id>",
                answer=self.change,
                summary="Change a player; who is hidden leaves every ranking at once, names follow within a minute",
                takes=schemas.UserChanges,
                gives=schemas.User,
                scope=Scope.ADMIN,
                refuses=(404, 409),
            ),
            Endpoint(
                method="DELETE",
                path=f"{PATH}/<user_id>",
                answer=self.erase,
                summary="Erase a person: off all open boards, and the audit log keeps nothing that leads back",
                gives=schemas.Erased,
                scope=Scope.ADMIN,
                status=HTTPStatus.ACCEPTED,
                refuses=(404,),
            ),
        ]

    def create(self, call: Call[NoQuery, schemas.NewUser]) -> Reply:
        """Make a player. Conflict if the id or the username is taken."""
        with _named_as_here():
            player = players.create(self._engine, _new_player(call.body))
        headers = {"Location": f"{PATH}/{quote(player.id, safe=':')}"}
        return Reply(_user(player), HTTPStatus.CREATED, headers)

    def create_many(self, call: Call[NoQuery, list[schemas.NewUser]]) -> schemas.UserCreations:
        """Make players. Those who are there already stay as they are."""
        creations = players.create_many(self._engine, [_new_player(user) for user in call.body])
        counts = Counter(creation.status for creation in creations)
        return schemas.UserCreations(
            created=counts["created"],
            exists=counts["exists"],
            refused=counts["username_taken"] + counts["invalid"],
            results=[
                schemas.UserCreation(
                    status=creation.status,
                    user_id=creation.id,
                    field=_field(creation.field) or UNSET,
                    reason=creation.reason or UNSET,
                )
                for creation in creations
            ],
        )

    def listing(self, call: Call[schemas.UsersQuery, None]) -> schemas.Users:
        """A page of players."""
        limit, prefix = call.query.limit, call.query.prefix
        page = players.page(self._engine, after=call.query.after, prefix=prefix, limit=limit + 1)
        answer = schemas.Users(users=[_user(player) for player in page[:limit]])
        if len(page) > limit:
            following = {"limit": limit, "after": answer.users[-1].username} | ({"prefix": prefix} if prefix else {})
            answer.next = f"{PATH}?{urlencode(following)}"
        return answer

    def one(self, _call: Call[NoQuery, None], user_id: str) -> schemas.User:
        """A player, or UnknownPlayer."""
        player = players.get(self._engine, parse_player_id(user_id))
        if player is None:
            raise UnknownPlayer(field="user_id")
        return _user(player)

    def change(self, call: Call[NoQuery, schemas.UserChanges], user_id: str) -> schemas.User:
        """Change a player, or UnknownPlayer. That one is hidden is kept first, and then carried out on all open boards.

        Where that fails (NotEverywhereYet), the workers go on with it, and so does whoever asks again.
        """
        player_id, given = parse_player_id(user_id), msgspec.structs.asdict(call.body)
        changes = cast(PlayerChanges, {name: value for name, value in given.items() if value is not UNSET})
        with _named_as_here():
            player = players.update(self._engine, player_id, changes)
        if player is None:
            raise UnknownPlayer(field="user_id")
        self._names.forget(player_id)
        if "hidden" in changes:
            with _kept():
                self._leaderboard.hide_everywhere(self._open(), {player_id: player.hidden}, call.deadline)
            self._leaderboard.outlive_tops()
        return _user(player)

    def erase(self, call: Call[NoQuery, None], user_id: str) -> schemas.Erased:
        """Erase a person, or UnknownPlayer. What is left to do then is written down, and done by the workers."""
        player_id = parse_player_id(user_id)
        if not players.erase(self._engine, player_id):
            raise UnknownPlayer(field="user_id")
        self._names.forget(player_id)
        removal = removal_of(player_id, f"erasure:{call.request_id}:{token_hex(8)}")
        with _kept():
            removed, _ = self._leaderboard.remove_everywhere(self._open(), removal, call.deadline)
        self._leaderboard.outlive_tops()
        return schemas.Erased(user_id=player_id, boards=[str(name) for name in removed])

    def _open(self) -> list[BoardPeriod]:
        """The board periods that may be open now."""
        now = datetime.now(UTC)
        return [
            BoardPeriod(board.name, period)
            for board in boards.list_all(self._engine)
            for period in names_around(PeriodKind(board.period_kind), now, _BESIDE)
        ]


@contextmanager
def _kept() -> Iterator[None]:
    """In the block, what is committed in PostgreSQL is carried out: a shard that cannot be told has not refused it."""
    try:
        yield
    except (Unavailable, RecordsUnavailable) as error:
        raise NotEverywhereYet from error


@contextmanager
def _named_as_here() -> Iterator[None]:
    """In the block, errors of records name the fields as the contract does."""
    try:
        yield
    except Conflict as error:
        field = _field(error.field)
        raise Conflict(f"another player has this {field or 'value'}", field=field) from error
    except InvalidRecord as error:
        raise InvalidRecord(error.detail, field=_field(error.field)) from error


def _new_player(user: schemas.NewUser) -> NewPlayer:
    return NewPlayer(
        id=user.user_id,
        username=user.username,
        display_name=user.display_name,
        avatar_url=user.avatar_url,
        country=user.country,
    )


def _user(player: Player) -> schemas.User:
    return schemas.User(
        user_id=player.id,
        username=player.username,
        display_name=player.display_name,
        avatar_url=player.avatar_url,
        country=player.country,
        hidden=player.hidden,
        created_at=player.created_at,
    )


def _field(column: str | None) -> str | None:
    return "user_id" if column == "id" else column
