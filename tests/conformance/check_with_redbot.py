"""Checks URLs with REDbot, and prints each note of the level "bad" on one line, and then the status of each URL."""

import sys
from configparser import ConfigParser

import thor
from httplint.note import levels
from redbot.resource import HttpResource

config = ConfigParser()
config.read_dict({"redbot": {"enable_local_access": "True"}})
for url in sys.argv[1:]:
    resource = HttpResource(config["redbot"])
    resource.set_request(url)
    thor.events.on(resource, "check_done")(thor.stop)
    resource.check()
    thor.run()
    notes = [note for note in resource.response.notes]
    notes += [subnote for note in notes for subnote in note.subnotes]
    for note in notes:
        if note.level == levels.BAD:
            print(f"bad {url} {note.summary}")
    print(f"checked {url} {resource.response.status_code}")
