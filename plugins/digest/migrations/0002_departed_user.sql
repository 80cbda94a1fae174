-- The users who were deleted. A request of theirs may still be running, and makes nobody a recipient any more.
-- Nothing prunes the table: each row is one id, and no time is known after which the last request has ended and the last
-- delivery was repeated. A row goes when its account exists again: `wharf user import` keeps ids.
CREATE TABLE departed_user (
    id TEXT PRIMARY KEY
);
