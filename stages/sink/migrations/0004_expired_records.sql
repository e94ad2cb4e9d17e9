CREATE TABLE expired_records (          -- records that the broker deleted before a stage had read them
    id UUID PRIMARY KEY,
    stage VARCHAR NOT NULL,
    reader VARCHAR NOT NULL,            -- the stage's consumer group
    topic VARCHAR NOT NULL,
    partition_number INTEGER NOT NULL,
    first_position BIGINT NOT NULL,
    last_position BIGINT NOT NULL,
    calls INTEGER NOT NULL,             -- how many of their calls are known: each has a job of status expired
    found_at TIMESTAMP NOT NULL
);
