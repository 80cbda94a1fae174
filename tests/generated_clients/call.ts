// Uses both generated clients, so that the type check sees the types of calls.
import type { components, paths } from "./schema";
import { itemsCreateItem, itemsReadItems, loginLoginAccessToken, type ItemPublic } from "./client";

type Item = components["schemas"]["ItemPublic"];
type Items = paths["/api/v1/items/"]["get"]["responses"][200]["content"]["application/json"];

export async function titles(): Promise<string[]> {
  const token = await loginLoginAccessToken({ body: { username: "a@example.com", password: "secret" } });
  const auth = token.data?.access_token ?? "";
  const created = await itemsCreateItem({ auth, body: { title: "Tea", description: null } });
  const item: ItemPublic | undefined = created.data;
  const same: Item | undefined = item;
  const page = await itemsReadItems({ auth, query: { skip: 0, limit: 10 } });
  const items: Items | undefined = page.data;
  return [...(items?.data ?? []), ...(same ? [same] : [])].map((each) => each.title);
}
