-- The parcels of a lane have the places 1, 2, 3, … in the order of their commits.
CREATE TABLE lane (
    name TEXT PRIMARY KEY,
    parcels BIGINT NOT NULL
);

CREATE TABLE parcel (
    id TEXT PRIMARY KEY,
    lane TEXT NOT NULL,
    place BIGINT NOT NULL,
    CONSTRAINT parcel_place_key UNIQUE (lane, place)
);

-- How often an event and a job were begun.
CREATE TABLE step (
    id TEXT NOT NULL,
    kind TEXT NOT NULL,
    attempts BIGINT NOT NULL,
    PRIMARY KEY (id, kind)
);

-- How long a job waited for its start.
CREATE TABLE wait (
    id TEXT PRIMARY KEY,
    micros BIGINT NOT NULL
);
