CREATE TABLE unheard (                  -- detected speech that no words account for
    id UUID PRIMARY KEY,
    session_id UUID NOT NULL,
    revision INTEGER NOT NULL,
    channel INTEGER NOT NULL,
    start_time DOUBLE NOT NULL,
    end_time DOUBLE NOT NULL,
    level_dbfs DOUBLE NOT NULL,         -- RMS level
    reason VARCHAR NOT NULL             -- no_words, a guard's or doubt's name, error, limit
);
