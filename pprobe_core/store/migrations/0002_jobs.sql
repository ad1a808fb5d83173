-- What was asked for and how far it got. A job is one request: asking again for the same thing meets the same row.
-- States: queued, running, done, failed, cancelled, interrupted.

create table jobs (
    job_id varchar primary key,
    created_at timestamp not null,
    state varchar not null,
    request varchar not null,
    request_key varchar,
    run_id varchar,
    error varchar,
    exit_code integer -- of the command line, where the job failed
);

-- Finished pieces of an unfinished job: one commit per block, so that a killed process loses at most the block at hand.
create table job_blocks (
    job_id varchar not null,
    kind varchar not null,
    block integer not null,
    payload blob not null,
    primary key (job_id, kind, block)
);
