;; A plugin whose core module a test writes. It declares the bytes of its memory, valid or not. A test replaces the four
;; comments in capitals; the items of the core module replace the second. The module exports `memory`, `realloc`,
;; `describe`, `routes` and `handle`. The rest is the code that a compiler would generate: a role is an instance of a
;; component that names the types.
(component
  ;; BEFORE
  (core module $core
    ;; CORE
  )
  (core instance $core (instantiate $core
    ;; WITH
  ))

  (type $permission (record (field "name" string) (field "summary" string)))
  (type $descriptor (record
    (field "name" string) (field "version" string) (field "summary" string)
    (field "permissions" (list $permission)) (field "settings-schema" (option string))))
  (func $describe (result $descriptor)
    (canon lift (core func $core "describe") (memory (core memory $core "memory"))))
  (component $descriptor-role
    (import "a" (type $permission' (eq $permission)))
    (type $descriptor (record
      (field "name" string) (field "version" string) (field "summary" string)
      (field "permissions" (list $permission')) (field "settings-schema" (option string))))
    (import "b" (type $descriptor' (eq $descriptor)))
    (import "f" (func $describe (result $descriptor')))
    (export $permission'' "permission" (type $permission'))
    (type $descriptor-out (record
      (field "name" string) (field "version" string) (field "summary" string)
      (field "permissions" (list $permission'')) (field "settings-schema" (option string))))
    (export $descriptor'' "plugin-descriptor" (type $descriptor-out))
    (export "describe" (func $describe) (func (result $descriptor''))))
  (instance $descriptor-role (instantiate $descriptor-role
    (with "a" (type $permission)) (with "b" (type $descriptor)) (with "f" (func $describe))))
  (export "wharf:plugin/descriptor@0.1.0" (instance $descriptor-role))

  (type $access (variant (case "public") (case "authenticated") (case "permission" string) (case "superuser")))
  (type $cache (record (field "ttl-ms" u32) (field "per-caller" bool) (field "tags" (list string))))
  (type $route (record
    (field "method" string) (field "path" string) (field "access" $access) (field "operation" string)
    (field "cache" (option $cache))))
  (type $api (record (field "routes" (list $route)) (field "schemas" (list (tuple string string)))))
  (type $request (record
    (field "id" string) (field "route" u32) (field "method" string) (field "path" string)
    (field "params" (list (tuple string string))) (field "query" string)
    (field "headers" (list (tuple string string))) (field "body" (list u8))))
  (type $response (record
    (field "status" u16) (field "headers" (list (tuple string string))) (field "body" (list u8))))
  (type $field-error (record (field "loc" (list string)) (field "kind" string) (field "message" string)))
  (type $problem (record
    (field "status" u16) (field "code" string) (field "detail" string) (field "errors" (list $field-error))))
  (func $routes (result $api)
    (canon lift (core func $core "routes") (memory (core memory $core "memory"))))
  (func $handle (param "request" $request) (result (result $response (error $problem)))
    (canon lift (core func $core "handle")
      (memory (core memory $core "memory")) (realloc (core func $core "realloc"))
      ;; OPTIONS
    ))
  (component $http-role
    (import "a" (type $access' (eq $access)))
    (import "b" (type $cache' (eq $cache)))
    (type $route (record
      (field "method" string) (field "path" string) (field "access" $access') (field "operation" string)
      (field "cache" (option $cache'))))
    (import "c" (type $route' (eq $route)))
    (type $api (record (field "routes" (list $route')) (field "schemas" (list (tuple string string)))))
    (import "d" (type $api' (eq $api)))
    (import "e" (type $request' (eq $request)))
    (import "f" (type $response' (eq $response)))
    (import "g" (type $field-error' (eq $field-error)))
    (type $problem (record
      (field "status" u16) (field "code" string) (field "detail" string) (field "errors" (list $field-error'))))
    (import "h" (type $problem' (eq $problem)))
    (import "i" (func $routes (result $api')))
    (import "j" (func $handle (param "request" $request') (result (result $response' (error $problem')))))
    (export $access'' "access" (type $access'))
    (export $cache'' "cache-policy" (type $cache'))
    (type $route-out (record
      (field "method" string) (field "path" string) (field "access" $access'') (field "operation" string)
      (field "cache" (option $cache''))))
    (export $route'' "route" (type $route-out))
    (type $api-out (record (field "routes" (list $route'')) (field "schemas" (list (tuple string string)))))
    (export $api'' "api" (type $api-out))
    (export $request'' "request" (type $request'))
    (export $response'' "response" (type $response'))
    (export $field-error'' "field-error" (type $field-error'))
    (type $problem-out (record
      (field "status" u16) (field "code" string) (field "detail" string) (field "errors" (list $field-error''))))
    (export $problem'' "problem" (type $problem-out))
    (export "routes" (func $routes) (func (result $api'')))
    (export "handle" (func $handle)
      (func (param "request" $request'') (result (result $response'' (error $problem''))))))
  (instance $http-role (instantiate $http-role
    (with "a" (type $access)) (with "b" (type $cache)) (with "c" (type $route)) (with "d" (type $api))
    (with "e" (type $request)) (with "f" (type $response)) (with "g" (type $field-error)) (with "h" (type $problem))
    (with "i" (func $routes)) (with "j" (func $handle))))
  (export "wharf:plugin/http@0.1.0" (instance $http-role))
)
