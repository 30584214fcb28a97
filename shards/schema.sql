-- What manifest.duckdb holds: tables filled from a dataset's files, and views that answer the usual questions.
-- The Parquet ledgers beside the shards are the record; this is a snapshot of them and may be deleted at any time.
--
-- Two names of columns are words of SQL: write "end" in double quotes (or segments.end); start needs none.
-- The statements run one after another in an empty database. Comments stay with it: duckdb_columns() lists them.

---------------------------------------------------------------------------------------------------- tables

CREATE TABLE attempts (
    key VARCHAR NOT NULL,
    ytid VARCHAR NOT NULL,
    start DOUBLE NOT NULL,
    "end" DOUBLE NOT NULL,
    split VARCHAR NOT NULL,
    outcome VARCHAR NOT NULL,
    disposition VARCHAR NOT NULL,
    attempts INTEGER NOT NULL,
    message VARCHAR,
    shard VARCHAR NOT NULL,
    mids VARCHAR[] NOT NULL,
    identity VARCHAR,
    audio_s DOUBLE,
    video_s DOUBLE,
    short BOOLEAN,
    sample_rate INTEGER,
    channels SMALLINT,
    frame_times DOUBLE[],
    rms_dbfs FLOAT,
    peak_dbfs FLOAT,
    silent_share FLOAT,
    stillness FLOAT,
    still BOOLEAN,
    pcm_sha256 VARCHAR,
    sample_sha256 VARCHAR,
    sample_bytes BIGINT,
    width INTEGER,
    height INTEGER,
    fps FLOAT,
    rotation SMALLINT,
    hdr BOOLEAN,
    source_sample_rate INTEGER,
    source_channels SMALLINT,
    video_codec VARCHAR,
    audio_codec VARCHAR,
    format_id VARCHAR,
    media_bytes BIGINT,
    requests INTEGER,
    resolve_s FLOAT,
    extract_s FLOAT,
    total_s FLOAT,
    cpu_s FLOAT,
    started_at TIMESTAMPTZ,
    finished_at TIMESTAMPTZ,
    host VARCHAR,
    run VARCHAR,
    downloader_version VARCHAR,
    ffmpeg_version VARCHAR,
    trichord_version VARCHAR,
    position INTEGER NOT NULL,
    is_current BOOLEAN NOT NULL,
    tries INTEGER NOT NULL
);
COMMENT ON TABLE attempts IS 'Every row of every ledger: a segment that was tried again in a later shard has several.';
COMMENT ON COLUMN attempts.key IS 'Name of the sample in its shard: {ytid}_{start in ms}.';
COMMENT ON COLUMN attempts.ytid IS 'YouTube video id, 11 characters.';
COMMENT ON COLUMN attempts.start IS 'Where the window begins in the video, in seconds.';
COMMENT ON COLUMN attempts."end" IS 'Where the window ends in the video, in seconds. Write "end" in double quotes.';
COMMENT ON COLUMN attempts.split IS 'AudioSet''s split: balanced_train, unbalanced_train or eval.';
COMMENT ON COLUMN attempts.outcome IS 'What came of it: ok, or the reason why there is no sample.';
COMMENT ON COLUMN attempts.disposition IS 'done, permanent (asking again gives the same), retryable, or blocked (about us, not the video).';
COMMENT ON COLUMN attempts.attempts IS 'Tries in this ledger; in segments the sum over all ledgers.';
COMMENT ON COLUMN attempts.message IS 'The error as the site, the downloader or the decoder worded it.';
COMMENT ON COLUMN attempts.shard IS 'The shard whose ledger has this row; its tar holds the sample when outcome is ok.';
COMMENT ON COLUMN attempts.mids IS 'Label ids such as /m/0bt9lr, in the order of the segments file.';
COMMENT ON COLUMN attempts.identity IS 'Proxy and cookie file (by name) that the requests went through.';
COMMENT ON COLUMN attempts.audio_s IS 'Seconds of sound decoded inside the window.';
COMMENT ON COLUMN attempts.video_s IS 'Seconds of picture decoded inside the window.';
COMMENT ON COLUMN attempts.short IS 'Kept although less than 95 % of the window decoded.';
COMMENT ON COLUMN attempts.sample_rate IS 'Of the sample''s sound, in Hz.';
COMMENT ON COLUMN attempts.channels IS 'Of the sample''s sound.';
COMMENT ON COLUMN attempts.frame_times IS 'When each picture is shown, in seconds from the window''s start on the sound''s clock.';
COMMENT ON COLUMN attempts.rms_dbfs IS 'Mean level of the sound, in dB below full scale.';
COMMENT ON COLUMN attempts.peak_dbfs IS 'Highest level of the sound, in dB below full scale.';
COMMENT ON COLUMN attempts.silent_share IS 'Share of 50 ms blocks below -60 dBFS: 1 is silence.';
COMMENT ON COLUMN attempts.stillness IS '1 when all pictures are equal, 0 when they have nothing in common.';
COMMENT ON COLUMN attempts.still IS 'Whether stillness is so high that the picture hardly moves.';
COMMENT ON COLUMN attempts.pcm_sha256 IS 'SHA-256 of the decoded sound: equal for equal sound, whatever its encoding.';
COMMENT ON COLUMN attempts.sample_sha256 IS 'SHA-256 of the sample''s part of the tar, headers included.';
COMMENT ON COLUMN attempts.sample_bytes IS 'Bytes of the sample''s part of the tar, headers included.';
COMMENT ON COLUMN attempts.width IS 'Of the source picture, in pixels, as stored.';
COMMENT ON COLUMN attempts.height IS 'Of the source picture, in pixels, as stored.';
COMMENT ON COLUMN attempts.fps IS 'Frames per second of the source.';
COMMENT ON COLUMN attempts.rotation IS 'Degrees by which the source asks to be turned.';
COMMENT ON COLUMN attempts.hdr IS 'Whether the source is high dynamic range.';
COMMENT ON COLUMN attempts.source_sample_rate IS 'Of the source''s sound, in Hz.';
COMMENT ON COLUMN attempts.source_channels IS 'Of the source''s sound.';
COMMENT ON COLUMN attempts.video_codec IS 'Of the source.';
COMMENT ON COLUMN attempts.audio_codec IS 'Of the source.';
COMMENT ON COLUMN attempts.format_id IS 'The site''s name for the format or formats that were fetched.';
COMMENT ON COLUMN attempts.media_bytes IS 'Bytes of media that were fetched.';
COMMENT ON COLUMN attempts.requests IS 'Requests that were sent.';
COMMENT ON COLUMN attempts.resolve_s IS 'Seconds until the media''s addresses were known.';
COMMENT ON COLUMN attempts.extract_s IS 'Seconds of fetching and decoding.';
COMMENT ON COLUMN attempts.total_s IS 'Seconds from the first request to the finished sample.';
COMMENT ON COLUMN attempts.cpu_s IS 'CPU seconds of the processes that decoded it.';
COMMENT ON COLUMN attempts.started_at IS 'When the attempt began.';
COMMENT ON COLUMN attempts.finished_at IS 'When the attempt ended.';
COMMENT ON COLUMN attempts.host IS 'Machine that did it.';
COMMENT ON COLUMN attempts.run IS 'Run of `trichord ingest` that did it.';
COMMENT ON COLUMN attempts.downloader_version IS 'Version of yt-dlp.';
COMMENT ON COLUMN attempts.ffmpeg_version IS 'Version of ffmpeg.';
COMMENT ON COLUMN attempts.trichord_version IS 'Version of this program.';
COMMENT ON COLUMN attempts.position IS 'Place of the row in its ledger, from 0; samples lie in the tar in this order.';
COMMENT ON COLUMN attempts.is_current IS 'Whether this row stands for its segment in the view segments: an ok one, else the latest.';
COMMENT ON COLUMN attempts.tries IS 'Sum of attempts over all rows of the same key.';

CREATE TABLE shards (
    shard VARCHAR NOT NULL,
    split VARCHAR,
    rows BIGINT,
    samples BIGINT,
    tar_bytes BIGINT,
    tar_sha256 VARCHAR,
    outcomes MAP(VARCHAR, BIGINT),
    profile_hash VARCHAR,
    written_at TIMESTAMPTZ,
    run VARCHAR,
    format_version INTEGER,
    problem VARCHAR
);
COMMENT ON TABLE shards IS 'Every finished shard, by the footer of its ledger.';
COMMENT ON COLUMN shards.shard IS 'Its name: {shard}.tar holds the samples, {shard}.parquet the ledger.';
COMMENT ON COLUMN shards.split IS 'AudioSet''s split.';
COMMENT ON COLUMN shards.rows IS 'Segments that were tried.';
COMMENT ON COLUMN shards.samples IS 'Samples in the tar.';
COMMENT ON COLUMN shards.tar_bytes IS 'Size of the tar.';
COMMENT ON COLUMN shards.tar_sha256 IS 'SHA-256 of the tar.';
COMMENT ON COLUMN shards.outcomes IS 'How many segments came to which outcome.';
COMMENT ON COLUMN shards.profile_hash IS 'Of the profile in dataset.json: equal for all shards of a dataset.';
COMMENT ON COLUMN shards.written_at IS 'When the shard was finished.';
COMMENT ON COLUMN shards.run IS 'Run of `trichord ingest` that wrote it.';
COMMENT ON COLUMN shards.format_version IS 'Version of the data format.';
COMMENT ON COLUMN shards.problem IS 'Why the ledger could not be read; its rows are then missing everywhere else.';

CREATE TABLE labels (
    index INTEGER,
    mid VARCHAR NOT NULL,
    name VARCHAR NOT NULL,
    parents VARCHAR[] NOT NULL
);
COMMENT ON TABLE labels IS 'The class table and the ontology.';
COMMENT ON COLUMN labels.index IS 'Place in a vector of class scores, 0 to 526; NULL for classes of the ontology without one.';
COMMENT ON COLUMN labels.mid IS 'Label id such as /m/0bt9lr.';
COMMENT ON COLUMN labels.name IS 'Class name such as Dog.';
COMMENT ON COLUMN labels.parents IS 'mids of the broader classes; several for some.';

CREATE TABLE untried (
    key VARCHAR NOT NULL,
    ytid VARCHAR NOT NULL,
    start DOUBLE NOT NULL,
    "end" DOUBLE NOT NULL,
    split VARCHAR NOT NULL,
    mids VARCHAR[] NOT NULL,
    shard VARCHAR NOT NULL
);
COMMENT ON TABLE untried IS 'Segments that are planned and in no ledger yet.';
COMMENT ON COLUMN untried.key IS 'Name of the sample to be: {ytid}_{start in ms}.';
COMMENT ON COLUMN untried.ytid IS 'YouTube video id.';
COMMENT ON COLUMN untried.start IS 'Where the window begins in the video, in seconds.';
COMMENT ON COLUMN untried."end" IS 'Where the window ends in the video, in seconds. Write "end" in double quotes.';
COMMENT ON COLUMN untried.split IS 'AudioSet''s split.';
COMMENT ON COLUMN untried.mids IS 'Label ids.';
COMMENT ON COLUMN untried.shard IS 'The shard that it is planned for.';

CREATE TABLE skipped_rows (
    file VARCHAR,
    line BIGINT,
    text VARCHAR,
    reason VARCHAR
);
COMMENT ON TABLE skipped_rows IS 'Rows of the segments files that --skip-bad-rows left out.';
COMMENT ON COLUMN skipped_rows.file IS 'The segments file.';
COMMENT ON COLUMN skipped_rows.line IS 'Line number in it, from 1.';
COMMENT ON COLUMN skipped_rows.text IS 'The line.';
COMMENT ON COLUMN skipped_rows.reason IS 'What is wrong with it.';

CREATE TABLE sources (
    name VARCHAR NOT NULL,
    bytes BIGINT NOT NULL,
    mtime DOUBLE NOT NULL,
    problem VARCHAR
);
COMMENT ON TABLE sources IS 'The files that this snapshot was made from.';
COMMENT ON COLUMN sources.name IS 'Relative to the dataset.';
COMMENT ON COLUMN sources.bytes IS 'Size.';
COMMENT ON COLUMN sources.mtime IS 'When it was last changed, in seconds since 1970.';
COMMENT ON COLUMN sources.problem IS 'Why it could not be read.';

CREATE TABLE snapshot (
    built_at TIMESTAMPTZ NOT NULL,
    built_by VARCHAR NOT NULL,
    schema_sha256 VARCHAR NOT NULL,
    dataset JSON
);
COMMENT ON TABLE snapshot IS 'One row: when and by what this snapshot was made, and the dataset''s profile.';
COMMENT ON COLUMN snapshot.built_at IS 'When it was made.';
COMMENT ON COLUMN snapshot.built_by IS 'DuckDB''s version.';
COMMENT ON COLUMN snapshot.schema_sha256 IS 'Of this schema: a snapshot with another one is built anew.';
COMMENT ON COLUMN snapshot.dataset IS 'dataset.json as it was: dataset->>''$.profile.frames''.';

----------------------------------------------------------------------------------------------------- views

-- the column comments of attempts are copied to segments when a manifest is built
CREATE VIEW segments AS
SELECT
    attempts.* EXCLUDE (is_current, tries) REPLACE (tries AS attempts),
    list_transform(mids, lambda mid: coalesce(known.names[mid], mid)) AS classes
FROM attempts
CROSS JOIN (SELECT map(list(mid), list(name)) AS names FROM labels) AS known
WHERE is_current;
COMMENT ON VIEW segments IS 'One row for each segment that was tried: the attempt that was ok, else the latest.';
COMMENT ON COLUMN segments.classes IS 'Class names of mids, in the same order.';

CREATE VIEW pending AS
SELECT key, ytid, start, "end", split, shard, mids, 'not tried yet' AS reason, NULL AS message
FROM untried
UNION ALL
SELECT key, ytid, start, "end", split, shard, mids, disposition || ': ' || outcome, message
FROM attempts
WHERE is_current AND disposition IN ('retryable', 'blocked');
COMMENT ON VIEW pending IS 'Segments that may still give a sample: not tried yet, or last met something that can pass.';
COMMENT ON COLUMN pending.key IS 'Name of the sample to be: {ytid}_{start in ms}.';
COMMENT ON COLUMN pending.ytid IS 'YouTube video id.';
COMMENT ON COLUMN pending.start IS 'Where the window begins in the video, in seconds.';
COMMENT ON COLUMN pending."end" IS 'Where the window ends in the video, in seconds. Write "end" in double quotes.';
COMMENT ON COLUMN pending.split IS 'AudioSet''s split.';
COMMENT ON COLUMN pending.shard IS 'The shard that it is planned for, or that last tried it.';
COMMENT ON COLUMN pending.mids IS 'Label ids.';
COMMENT ON COLUMN pending.reason IS '"not tried yet", or the last disposition and outcome.';
COMMENT ON COLUMN pending.message IS 'The last error.';

CREATE VIEW coverage AS
SELECT
    split,
    count(*) AS planned,
    count(outcome) AS attempted,
    count(*) FILTER (outcome = 'ok') AS ok,
    count(*) FILTER (outcome = 'ok') / nullif(count(outcome), 0) AS yield,
    count(*) FILTER (disposition = 'permanent') AS permanent,
    count(*) FILTER (disposition = 'retryable') AS retryable,
    count(*) FILTER (disposition = 'blocked') AS blocked,
    count(*) - count(outcome) AS untried,
    coalesce(sum(audio_s) FILTER (outcome = 'ok'), 0) / 3600 AS hours,
    coalesce(sum(sample_bytes) FILTER (outcome = 'ok'), 0)::BIGINT AS sample_bytes,
    coalesce(sum(media_bytes), 0)::BIGINT AS media_bytes
FROM (
    SELECT split, outcome, disposition, audio_s, sample_bytes, media_bytes FROM attempts WHERE is_current
    UNION ALL
    SELECT split, NULL, NULL, NULL, NULL, NULL FROM untried
)
GROUP BY split
ORDER BY split;
COMMENT ON VIEW coverage IS 'How far each split has come.';
COMMENT ON COLUMN coverage.split IS 'AudioSet''s split.';
COMMENT ON COLUMN coverage.planned IS 'Segments asked for: attempted and untried.';
COMMENT ON COLUMN coverage.attempted IS 'Segments in a ledger: ok, permanent, retryable and blocked.';
COMMENT ON COLUMN coverage.ok IS 'Segments with a sample.';
COMMENT ON COLUMN coverage.yield IS 'ok / attempted.';
COMMENT ON COLUMN coverage.permanent IS 'Segments that asking again will not get.';
COMMENT ON COLUMN coverage.retryable IS 'Segments for `--retry retryable`.';
COMMENT ON COLUMN coverage.blocked IS 'Segments for `--retry blocked`.';
COMMENT ON COLUMN coverage.untried IS 'Segments in no ledger yet.';
COMMENT ON COLUMN coverage.hours IS 'Hours of sound in the samples.';
COMMENT ON COLUMN coverage.sample_bytes IS 'Bytes of the samples.';
COMMENT ON COLUMN coverage.media_bytes IS 'Bytes of media fetched for the current attempts.';

CREATE VIEW class_coverage AS
SELECT
    any_value(labels.index) AS index,
    mid,
    coalesce(any_value(labels.name), mid) AS name,
    split,
    count(*) AS planned,
    count(outcome) AS attempted,
    count(*) FILTER (outcome = 'ok') AS ok,
    count(*) FILTER (outcome = 'ok') / count(*) AS kept,
    coalesce(sum(audio_s) FILTER (outcome = 'ok'), 0) / 3600 AS hours
FROM (
    SELECT unnest(mids) AS mid, split, outcome, audio_s FROM attempts WHERE is_current
    UNION ALL
    SELECT unnest(mids), split, NULL, NULL FROM untried
)
LEFT JOIN labels USING (mid)
GROUP BY mid, split
ORDER BY split, index NULLS LAST, mid;
COMMENT ON VIEW class_coverage IS 'How far each class of each split has come. A segment counts for each of its classes.';
COMMENT ON COLUMN class_coverage.index IS 'Place in a vector of class scores.';
COMMENT ON COLUMN class_coverage.mid IS 'Label id.';
COMMENT ON COLUMN class_coverage.name IS 'Class name.';
COMMENT ON COLUMN class_coverage.split IS 'AudioSet''s split.';
COMMENT ON COLUMN class_coverage.planned IS 'Segments with the label.';
COMMENT ON COLUMN class_coverage.attempted IS 'Those in a ledger.';
COMMENT ON COLUMN class_coverage.ok IS 'Those with a sample.';
COMMENT ON COLUMN class_coverage.kept IS 'ok / planned.';
COMMENT ON COLUMN class_coverage.hours IS 'Hours of sound in their samples.';

CREATE VIEW failures AS
SELECT
    outcome,
    disposition,
    count(*) AS segments,
    count(*) / (SELECT count(*) FROM attempts WHERE is_current) AS share,
    arg_max(key, coalesce(finished_at, to_timestamp(0))) AS example,
    arg_max(message, coalesce(finished_at, to_timestamp(0))) AS message,
    max(finished_at) AS last_at
FROM attempts
WHERE is_current AND outcome <> 'ok'
GROUP BY outcome, disposition
ORDER BY segments DESC, outcome, disposition;
COMMENT ON VIEW failures IS 'Why there is no sample, and how often.';
COMMENT ON COLUMN failures.outcome IS 'The reason.';
COMMENT ON COLUMN failures.disposition IS 'permanent, retryable or blocked.';
COMMENT ON COLUMN failures.segments IS 'Segments whose current attempt came to this.';
COMMENT ON COLUMN failures.share IS 'Of all segments that were tried.';
COMMENT ON COLUMN failures.example IS 'Key of the latest one.';
COMMENT ON COLUMN failures.message IS 'Message of the latest one that has a message.';
COMMENT ON COLUMN failures.last_at IS 'When it last happened.';

CREATE VIEW duplicates AS
WITH again AS (
    SELECT pcm_sha256 FROM attempts
    WHERE is_current AND outcome = 'ok' AND pcm_sha256 IS NOT NULL
    GROUP BY pcm_sha256 HAVING count(*) > 1
)
SELECT
    pcm_sha256,
    count(*) AS segments,
    list(key ORDER BY key) AS keys,
    list(DISTINCT split ORDER BY split) AS splits,
    min(silent_share) AS silent_share
FROM attempts SEMI JOIN again USING (pcm_sha256)
WHERE is_current AND outcome = 'ok'
GROUP BY pcm_sha256
HAVING count(DISTINCT ytid) > 1
ORDER BY segments DESC, pcm_sha256;
COMMENT ON VIEW duplicates IS 'The same sound, to the last bit, under several video ids.';
COMMENT ON COLUMN duplicates.pcm_sha256 IS 'SHA-256 of the decoded sound.';
COMMENT ON COLUMN duplicates.segments IS 'Segments that have it.';
COMMENT ON COLUMN duplicates.keys IS 'Their keys.';
COMMENT ON COLUMN duplicates.splits IS 'Their splits: more than one is a leak between them.';
COMMENT ON COLUMN duplicates.silent_share IS '1 when the sound is silence, which many videos share.';

CREATE VIEW throughput AS
SELECT
    hour,
    host,
    identity,
    segments,
    ok,
    active_s,
    segments / active_s AS segments_per_s,
    ok / active_s AS ok_per_s,
    media_bytes / 1e6 / active_s AS media_mb_per_s,
    cpu_s / segments AS cpu_s_per_segment
FROM (
    SELECT
        date_trunc('hour', finished_at) AS hour,
        host,
        identity,
        count(*) AS segments,
        count(*) FILTER (outcome = 'ok') AS ok,
        greatest(
            1,
            epoch(max(finished_at)) - greatest(epoch(min(started_at)), epoch(date_trunc('hour', max(finished_at))))
        ) AS active_s,
        coalesce(sum(media_bytes), 0)::BIGINT AS media_bytes,
        coalesce(sum(cpu_s), 0) AS cpu_s
    FROM attempts
    WHERE finished_at IS NOT NULL
    GROUP BY ALL
)
ORDER BY hour, host, identity;
COMMENT ON VIEW throughput IS 'What each machine and identity did in each hour, retries included.';
COMMENT ON COLUMN throughput.hour IS 'Start of the hour.';
COMMENT ON COLUMN throughput.host IS 'Machine.';
COMMENT ON COLUMN throughput.identity IS 'Proxy and cookie file.';
COMMENT ON COLUMN throughput.segments IS 'Attempts that ended in this hour.';
COMMENT ON COLUMN throughput.ok IS 'Those that gave a sample.';
COMMENT ON COLUMN throughput.active_s IS 'Seconds of the hour from the first start to the last end.';
COMMENT ON COLUMN throughput.segments_per_s IS 'segments / active_s.';
COMMENT ON COLUMN throughput.ok_per_s IS 'ok / active_s.';
COMMENT ON COLUMN throughput.media_mb_per_s IS 'Megabytes (10^6 bytes) of media per second.';
COMMENT ON COLUMN throughput.cpu_s_per_segment IS 'CPU seconds per attempt.';

CREATE VIEW identities AS
SELECT
    identity,
    count(*) AS segments,
    count(*) FILTER (outcome = 'ok') AS ok,
    count(*) FILTER (disposition = 'blocked') AS blocked,
    coalesce(sum(requests), 0)::BIGINT AS requests,
    coalesce(sum(media_bytes), 0)::BIGINT AS media_bytes,
    min(started_at) AS first_at,
    max(finished_at) AS last_at,
    max(finished_at) FILTER (disposition = 'blocked') AS last_blocked_at
FROM attempts
GROUP BY identity
ORDER BY identity;
COMMENT ON VIEW identities IS 'What each proxy and cookie file was used for, and whether it was blocked.';
COMMENT ON COLUMN identities.identity IS 'Proxy and cookie file (by name); NULL for attempts that needed none.';
COMMENT ON COLUMN identities.segments IS 'Attempts, retries included.';
COMMENT ON COLUMN identities.ok IS 'Those that gave a sample.';
COMMENT ON COLUMN identities.blocked IS 'Those that were blocked.';
COMMENT ON COLUMN identities.requests IS 'Requests that were sent.';
COMMENT ON COLUMN identities.media_bytes IS 'Bytes of media that were fetched.';
COMMENT ON COLUMN identities.first_at IS 'When it was first used.';
COMMENT ON COLUMN identities.last_at IS 'When it was last used.';
COMMENT ON COLUMN identities.last_blocked_at IS 'When it was last blocked.';
