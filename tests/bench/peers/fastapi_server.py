"""A peer of `make bench PEERS=1`: the routes of the ladder with FastAPI and SQLModel on PostgreSQL.

Run as `fastapi_server.py PORT`. The settings are the variables that the benchmark sets. There is a process for each core.
"""

import hashlib
import os
import secrets
import sys
import uuid
from datetime import UTC, datetime
from typing import Annotated

from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError
from fastapi import Depends, FastAPI, Header, HTTPException, Request
from sqlalchemy import Index, text
from sqlmodel import Field, Session, SQLModel, create_engine, desc, func, select

# OWASP's recommendation for Argon2id, which is Wharf's default.
HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)


class Account(SQLModel, table=True):
    id: uuid.UUID = Field(default_factory=uuid.uuid4, primary_key=True)
    email: str = Field(unique=True)
    full_name: str | None = None
    password_hash: str


class Login(SQLModel, table=True):
    token_hash: bytes = Field(primary_key=True)
    account_id: uuid.UUID = Field(foreign_key="account.id")


class Item(SQLModel, table=True):
    __table_args__ = (Index("item_newest", text("created_at DESC"), "id"),)

    id: uuid.UUID = Field(default_factory=uuid.uuid4, primary_key=True)
    title: str
    description: str | None = None
    owner_id: uuid.UUID
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))


class AccountPublic(SQLModel):
    id: uuid.UUID
    email: str
    full_name: str | None


class ItemCreate(SQLModel):
    title: str = Field(min_length=1, max_length=255)
    description: str | None = Field(default=None, max_length=255)


class ItemPublic(SQLModel):
    id: uuid.UUID
    title: str
    description: str | None
    owner_id: uuid.UUID
    created_at: datetime


class ItemsPublic(SQLModel):
    data: list[ItemPublic]
    count: int


class Credentials(SQLModel):
    username: str
    password: str


app = FastAPI()
engine = create_engine(os.environ["DATABASE_URL"], pool_size=20)


def session():
    with Session(engine) as opened:
        yield opened


Database = Annotated[Session, Depends(session)]


def token_hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def caller(database: Database, authorization: Annotated[str, Header()] = "") -> Account:
    token = authorization.removeprefix("Bearer ")
    statement = select(Account).join(Login, Login.account_id == Account.id).where(Login.token_hash == token_hash(token))
    account = database.exec(statement).first()
    if account is None:
        raise HTTPException(401)
    return account


Caller = Annotated[Account, Depends(caller)]


@app.get("/hello")
def hello() -> dict[str, str]:
    return {"message": "Hello"}


@app.get("/users/me")
def read_me(account: Caller) -> AccountPublic:
    return account


@app.get("/items")
def read_items(database: Database, _: Caller, skip: int = 0, limit: int = 100) -> ItemsPublic:
    newest = select(Item).order_by(desc(Item.created_at), Item.id).offset(skip).limit(limit)
    data = database.exec(newest).all()
    count = database.exec(select(func.count()).select_from(Item)).one()
    return ItemsPublic(data=[ItemPublic.model_validate(item, from_attributes=True) for item in data], count=count)


@app.post("/items")
def create_item(database: Database, account: Caller, new: ItemCreate) -> ItemPublic:
    item = Item(title=new.title, description=new.description, owner_id=account.id)
    database.add(item)
    database.commit()
    database.refresh(item)
    return item


@app.post("/length")
async def length(request: Request) -> int:
    return len(await request.body())


@app.post("/login")
def login(database: Database, credentials: Credentials) -> dict[str, str]:
    account = database.exec(select(Account).where(Account.email == credentials.username)).first()
    if account is None:
        raise HTTPException(401)
    try:
        HASHER.verify(account.password_hash, credentials.password)
    except VerifyMismatchError:
        raise HTTPException(401) from None
    token = secrets.token_urlsafe()
    database.add(Login(token_hash=token_hash(token), account_id=account.id))
    database.commit()
    return {"access_token": token, "token_type": "bearer"}


def create_data() -> None:
    SQLModel.metadata.create_all(engine)
    with Session(engine) as database:
        account = Account(email=os.environ["BENCH_EMAIL"], password_hash=HASHER.hash(os.environ["BENCH_PASSWORD"]))
        database.add(account)
        database.flush()
        database.add(Login(token_hash=token_hash(os.environ["BENCH_TOKEN"]), account_id=account.id))
        for index in range(int(os.environ["BENCH_ITEMS"])):
            database.add(Item(title=f"Item {index}", owner_id=account.id))
        database.commit()
    engine.dispose()


if __name__ == "__main__":
    create_data()
    workers = str(len(os.sched_getaffinity(0)))
    serve = ["-m", "uvicorn", "fastapi_server:app", "--app-dir", os.path.dirname(__file__), "--no-access-log"]
    # In place of this process: its children would import this file twice.
    os.execv(sys.executable, [sys.executable, *serve, "--port", sys.argv[1], "--workers", workers])
