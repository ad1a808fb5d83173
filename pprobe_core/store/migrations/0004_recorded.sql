-- Results that came with the program instead of being computed on this computer.
-- `recorded` is the id of the recorded set; null where it was computed here.

alter table runs add column recorded varchar;
alter table sweeps add column recorded varchar;

-- True where a job was asked to compute although a recorded result is there.
alter table jobs add column here boolean default false;

-- One row: the set that was brought in last, and whether the user wants recorded results at all.
create table recorded_set (
    set_id varchar not null,
    wanted boolean not null
);

-- Ids of runs and sweeps that a user deleted: a recorded one of this id does not come back by itself.
create table recorded_deleted (
    id varchar primary key
);
