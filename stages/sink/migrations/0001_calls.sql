-- All times of day are UTC. Positions in a call are seconds from its start.
-- There are no foreign keys: a turn may arrive before the start of its call is known.

CREATE TABLE audio_sessions (
    id UUID PRIMARY KEY,
    filename VARCHAR,
    duration DOUBLE,
    channels INTEGER,
    sample_rate INTEGER,
    uploaded_at TIMESTAMP,
    processed_at TIMESTAMP,
    status VARCHAR NOT NULL,            -- in_progress, completed, failed
    tenant VARCHAR NOT NULL,
    call_id VARCHAR NOT NULL,
    encoding VARCHAR,
    language VARCHAR,
    roles JSON NOT NULL,                -- one name a channel
    revision INTEGER,                   -- of the completed transcript; NULL before the first
    provisional BOOLEAN NOT NULL,       -- ended by the idle limit: may be reopened
    reason VARCHAR,                     -- why the call ended
    metadata JSON NOT NULL              -- as the producer gave it
);

CREATE TABLE transcript_segments (      -- one row a turn
    id UUID PRIMARY KEY,
    session_id UUID NOT NULL,
    speaker VARCHAR NOT NULL,
    start_time DOUBLE NOT NULL,
    end_time DOUBLE NOT NULL,
    "text" VARCHAR NOT NULL,
    confidence DOUBLE,                  -- mean word probability; NULL without words
    channel INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    language VARCHAR NOT NULL,
    segment_ids JSON NOT NULL,
    words STRUCT(
        "text" VARCHAR, start_time DOUBLE, end_time DOUBLE, probability DOUBLE, interpolated BOOLEAN
    )[] NOT NULL
);

CREATE TABLE transcript_parts (         -- which turns a completed transcript consists of
    id UUID PRIMARY KEY,
    session_id UUID NOT NULL,
    revision INTEGER NOT NULL,
    part INTEGER NOT NULL,
    parts INTEGER NOT NULL,
    turn_ids UUID[] NOT NULL
);

CREATE TABLE summaries (
    id UUID PRIMARY KEY,
    session_id UUID NOT NULL,
    summary_text VARCHAR NOT NULL,
    key_points JSON NOT NULL,           -- [{"text", "segment_ids"}]
    sentiment VARCHAR,
    created_at TIMESTAMP NOT NULL,
    kind VARCHAR NOT NULL,              -- rolling, final: one row of each a call
    revision INTEGER NOT NULL,
    method VARCHAR NOT NULL,            -- llm, extractive
    model VARCHAR NOT NULL,
    actions JSON NOT NULL,
    topics JSON NOT NULL,
    detail VARCHAR NOT NULL,            -- why this method
    seq BIGINT NOT NULL                 -- number of the record in the call's summaries
);

CREATE TABLE processing_jobs (
    id UUID PRIMARY KEY,
    session_id UUID NOT NULL,
    job_type VARCHAR NOT NULL,          -- separate, transcribe, merge, summarize, sink
    status VARCHAR NOT NULL,            -- started, completed, failed; gap, rejected: one row for each
    started_at TIMESTAMP,
    completed_at TIMESTAMP,
    error_message VARCHAR,
    detail JSON NOT NULL,
    updated_at TIMESTAMP NOT NULL
);

CREATE TABLE call_metrics (
    id UUID PRIMARY KEY,                -- the session's
    session_id UUID NOT NULL,
    duration_s DOUBLE NOT NULL,
    speech_s DOUBLE NOT NULL,
    silence_s DOUBLE NOT NULL,
    longest_silence_s DOUBLE NOT NULL,
    overlap_s DOUBLE NOT NULL,
    interruptions INTEGER NOT NULL,
    utterances INTEGER NOT NULL
);

CREATE TABLE channel_metrics (
    id UUID PRIMARY KEY,
    session_id UUID NOT NULL,
    channel INTEGER NOT NULL,
    "role" VARCHAR NOT NULL,
    talk_s DOUBLE NOT NULL,
    talk_ratio DOUBLE NOT NULL,
    turns INTEGER NOT NULL,
    words INTEGER NOT NULL,
    words_per_minute DOUBLE NOT NULL,
    interruptions INTEGER NOT NULL,
    longest_monologue_s DOUBLE NOT NULL,
    response_latency_s DOUBLE,
    responses INTEGER NOT NULL
);

CREATE TABLE gaps (                     -- audio that never arrived
    id UUID PRIMARY KEY,
    session_id UUID NOT NULL,
    start_time DOUBLE NOT NULL,
    end_time DOUBLE NOT NULL,
    events INTEGER NOT NULL
);

CREATE VIEW words AS
SELECT session_id, turn_id, "index", word."text" AS "text", word.start_time AS start_time, word.end_time AS end_time,
    word.probability AS probability, word.interpolated AS interpolated
FROM (
    SELECT session_id, id AS turn_id, unnest(range(len(words))) AS "index", unnest(words) AS word
    FROM transcript_segments
);

CREATE VIEW turns AS
SELECT s.tenant, s.call_id, t.id AS turn_id, t.session_id, t.speaker, t.channel, t.start_time AS start_s,
    t.end_time AS end_s, t."text", t.confidence, len(t.words) AS words, t.language, t.revision
FROM transcript_segments AS t JOIN audio_sessions AS s ON s.id = t.session_id;

CREATE VIEW calls AS
WITH spoken AS (
    SELECT session_id, count(*) AS turns, sum(len(words)) AS words FROM transcript_segments GROUP BY session_id
), summarized AS (
    SELECT session_id, arg_min(summary_text, kind) AS summary, arg_min(sentiment, kind) AS sentiment,
        arg_min(method, kind) AS summary_method  -- 'final' sorts before 'rolling'
    FROM summaries GROUP BY session_id
), lost AS (
    SELECT session_id, count(*) AS gaps, sum(end_time - start_time) AS gap_s FROM gaps GROUP BY session_id
)
SELECT s.tenant, s.call_id, s.status, s.filename, s.uploaded_at, s.processed_at, s.duration AS duration_s, s.channels,
    s.roles, s.language, coalesce(p.turns, 0) AS turns, coalesce(p.words, 0)::BIGINT AS words, m.speech_s, m.silence_s,
    m.overlap_s, m.interruptions, coalesce(l.gaps, 0) AS gaps, coalesce(l.gap_s, 0) AS gap_s, u.summary, u.sentiment,
    u.summary_method, s.revision, s.provisional, s.reason, s.id AS session_id
FROM audio_sessions AS s
LEFT JOIN spoken AS p ON p.session_id = s.id
LEFT JOIN summarized AS u ON u.session_id = s.id
LEFT JOIN lost AS l ON l.session_id = s.id
LEFT JOIN call_metrics AS m ON m.session_id = s.id;
