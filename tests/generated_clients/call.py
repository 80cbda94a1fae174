"""Calls a running host with the client that openapi-python-client generated."""

import importlib
import os
import pkgutil

import wharf_client
from wharf_client import AuthenticatedClient, Client
from wharf_client.api.items import items_create_item, items_delete_item, items_read_items
from wharf_client.api.login import login_test_token
from wharf_client.api.users import users_read_user_me
from wharf_client.models import ItemCreate, ItemPublic, ItemsPublic, Problem, UserPublic

# Every module compiles and finds its imports.
modules = [module.name for module in pkgutil.walk_packages(wharf_client.__path__, "wharf_client.")]
for name in modules:
    importlib.import_module(name)
assert len(modules) > 100, modules

url = os.environ["WHARF_URL"]
client = AuthenticatedClient(base_url=url, token=os.environ["WHARF_TOKEN"])
me = login_test_token.sync(client=client)
assert isinstance(me, UserPublic), me
created = items_create_item.sync(client=client, body=ItemCreate(title="Tea"))
assert isinstance(created, ItemPublic) and (created.title, created.owner_id) == ("Tea", me.id), created
assert created.description is None, created
items = items_read_items.sync(client=client, limit=1)
assert isinstance(items, ItemsPublic) and [item.id for item in items.data] == [created.id], items
refused = items_create_item.sync(client=client, body=ItemCreate(title=""))
assert isinstance(refused, Problem) and refused.code == "validation_error", refused
items_delete_item.sync(client=client, id=created.id)
anonymous = users_read_user_me.sync(client=Client(base_url=url))
assert isinstance(anonymous, Problem) and anonymous.status == 401, anonymous
