use wharf_sdk::prelude::*;

#[get("/{order}/lines/{number}")]
fn read(Path((_order, _number, _more)): Path<(Uuid, u32, u32)>) {}

fn main() {}
