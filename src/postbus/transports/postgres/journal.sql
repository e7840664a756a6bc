-- What is remembered of the past.  Places are compared as bytes, whatever language the database sorts by.
CREATE TABLE postbus.journal (
    kind text COLLATE "C" NOT NULL,
    place text COLLATE "C" NOT NULL,
    subject text COLLATE "C" NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (kind, place)
);
CREATE INDEX journal_subject ON postbus.journal (kind, subject, place) WHERE subject <> '';
