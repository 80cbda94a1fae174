-- The actions on a plugin, without the entries that the plugin recorded itself: its history is counted and listed.
CREATE INDEX audit_history ON audit (plugin, id) WHERE object = plugin AND substr(action, 1, 7) = 'plugin.';
