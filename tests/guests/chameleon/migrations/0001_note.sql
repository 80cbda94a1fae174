CREATE TABLE note (
    id TEXT PRIMARY KEY,
    text TEXT NOT NULL,
    CONSTRAINT note_text_key UNIQUE (text)
);
