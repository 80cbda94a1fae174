;; The core module of a tiny plugin: one public route that responds to `GET /` with 200 and no body. NAME is ten characters.
;; A call takes one page of memory. See `tests/guests/raw.wat` for the component around it.
(memory (export "memory") 1)
(global $free (mut i32) (i32.const 1024))
(data (i32.const 64) "NAME")
(data (i32.const 80) "1.0.0")
(data (i32.const 96) "GET")
(data (i32.const 100) "/")
(data (i32.const 104) "{}")
;; The descriptor: name and version as address and length. The rest is empty: summary, permissions, schema of settings.
(data (i32.const 128) "\40\00\00\00\0a\00\00\00\50\00\00\00\05\00\00\00")
;; The route: method, path, public access, operation, no caching.
(data (i32.const 256) "\60\00\00\00\03\00\00\00\64\00\00\00\01\00\00\00")
(data (i32.const 284) "\68\00\00\00\02\00\00\00")
;; One route and no schemas.
(data (i32.const 384) "\00\01\00\00\01\00\00\00")
;; A response of 200 without headers and body.
(data (i32.const 516) "\c8\00")
(func (export "describe") (result i32) i32.const 128)
(func (export "routes") (result i32) i32.const 384)
(func (export "realloc") (param i32 i32 i32 i32) (result i32)
  (global.set $free (i32.and
    (i32.add (global.get $free) (i32.sub (local.get 2) (i32.const 1)))
    (i32.sub (i32.const 0) (local.get 2))))
  (global.get $free)
  (global.set $free (i32.add (global.get $free) (local.get 3))))
(func (export "handle") (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
  i32.const 512)
