"""Players: making them, one or many, and reading who they are."""

from collections import Counter
from http import HTTPStatus
from urllib.parse import quote, urlencode

from msgspec import UNSET
from sqlalchemy import Engine

from api import schemas
from api.auth import Scope
from api.endpoints import BASE, Endpoint, Reply
from api.requests import Call, NoQuery
from records import players
from records.errors import Conflict, InvalidRecord
from records.players import NewPlayer, Player
from sharding.errors import UnknownPlayer
from sharding.players import parse_player_id

PATH = f"{BASE}/users"


class UserAnswers:
    """What is answered about players."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

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
                scope=Scope.READ,
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
        ]

    def create(self, call: Call[NoQuery, schemas.NewUser]) -> Reply:
        """Make a player. Conflict if the id or the username is taken."""
        try:
            player = players.create(self._engine, _new_player(call.body))
        except Conflict as error:
            field = _field(error.field)
            raise Conflict(f"another player has this {field or 'value'}", field=field) from error
        except InvalidRecord as error:
            raise InvalidRecord(error.detail, field=_field(error.field)) from error
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
        created_at=player.created_at,
    )


def _field(column: str | None) -> str | None:
    return "user_id" if column == "id" else column
