;; The address and the length of the greeting are at 0, and the greeting is at 16.
(component
  (core module $core
    (memory (export "memory") 1)
    (data (i32.const 0) "\10\00\00\00\13\00\00\00")
    (data (i32.const 16) "{\"message\":\"Hello\"}")
    (func (export "hello") (result i32) (i32.const 0)))
  (core instance $core (instantiate $core))
  (func (export "hello") (result string)
    (canon lift (core func $core "hello") (memory (core memory $core "memory")))))
