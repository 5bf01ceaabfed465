; The executor of the cpu device: worker threads walk a table of phases and share their chunks.
;
; Why chunk counters: a barrier waits for every thread, and a thread that has lost its core to
; another process holds up all. Here a thread takes a chunk if there is one and otherwise waits
; for chunks to be done, not for threads to arrive; a late thread falls through finished phases.
;
; Layouts, all fields i64 or ptr (exosuit.driver.cpu.executor writes them):
;   control    0 generation   64 table (ptr)   128 active workers   192 sleepers   200 stop
;              256 mutex      384 condition
;   table      0 epoch   8 phase count   16 phases (ptr)   24 parts (ptr)   32 counters (ptr)
;   phase      0 first part   8 part count   16 chunks                                   (24 bytes)
;   part       0 function (ptr)   8 arguments (ptr)   16 groups   24 chunks              (32 bytes)
;   counters   0 next   64 done, both only ever grow: epoch times chunks                (128 bytes)

declare i32 @sched_yield()
declare i32 @pthread_mutex_lock(ptr)
declare i32 @pthread_mutex_unlock(ptr)
declare i32 @pthread_cond_wait(ptr, ptr)
declare i32 @pthread_cond_broadcast(ptr)
{pause_declaration}

; Run every phase of a table for the given epoch (counted from 0).
define internal void @run(ptr %table, i64 %epoch) {
entry:
  %phase_count.p = getelementptr i8, ptr %table, i64 8
  %phase_count = load i64, ptr %phase_count.p
  %phases.p = getelementptr i8, ptr %table, i64 16
  %phases = load ptr, ptr %phases.p
  %parts.p = getelementptr i8, ptr %table, i64 24
  %parts = load ptr, ptr %parts.p
  %counters.p = getelementptr i8, ptr %table, i64 32
  %counters = load ptr, ptr %counters.p
  %epoch.next = add i64 %epoch, 1
  br label %phase.head

phase.head:
  %i = phi i64 [ 0, %entry ], [ %i.next, %phase.done ]
  %more = icmp slt i64 %i, %phase_count
  br i1 %more, label %phase.body, label %exit
phase.body:
  %phase.offset = mul i64 %i, 24
  %phase = getelementptr i8, ptr %phases, i64 %phase.offset
  %first_part = load i64, ptr %phase
  %chunks.p = getelementptr i8, ptr %phase, i64 16
  %chunks = load i64, ptr %chunks.p
  %base = mul i64 %chunks, %epoch
  %limit = mul i64 %chunks, %epoch.next
  %counter.offset = mul i64 %i, 128
  %next = getelementptr i8, ptr %counters, i64 %counter.offset
  %done = getelementptr i8, ptr %next, i64 64
  br label %take

take:
  %ticket = load atomic i64, ptr %next monotonic, align 8
  %available = icmp slt i64 %ticket, %limit
  br i1 %available, label %try, label %wait.begin
try:
  %ticket.next = add i64 %ticket, 1
  %swap = cmpxchg ptr %next, i64 %ticket, i64 %ticket.next acq_rel monotonic
  %won = extractvalue { i64, i1 } %swap, 1
  br i1 %won, label %find.begin, label %take

; Which part of the phase does the chunk belong to?
find.begin:
  %chunk = sub i64 %ticket, %base
  br label %find
find:
  %p = phi i64 [ %first_part, %find.begin ], [ %p.next, %find.further ]
  %c = phi i64 [ %chunk, %find.begin ], [ %c.next, %find.further ]
  %part.offset = mul i64 %p, 32
  %part = getelementptr i8, ptr %parts, i64 %part.offset
  %part.chunks.p = getelementptr i8, ptr %part, i64 24
  %part.chunks = load i64, ptr %part.chunks.p
  %here = icmp slt i64 %c, %part.chunks
  br i1 %here, label %work, label %find.further
find.further:
  %p.next = add i64 %p, 1
  %c.next = sub i64 %c, %part.chunks
  br label %find
work:
  %function = load ptr, ptr %part
  %arguments.p = getelementptr i8, ptr %part, i64 8
  %arguments = load ptr, ptr %arguments.p
  %groups.p = getelementptr i8, ptr %part, i64 16
  %groups = load i64, ptr %groups.p
  %begin.scaled = mul i64 %c, %groups
  %begin = udiv i64 %begin.scaled, %part.chunks
  %end.scaled = add i64 %begin.scaled, %groups
  %end = udiv i64 %end.scaled, %part.chunks
  call void %function(ptr %arguments, i64 %begin, i64 %end)
  %finished = atomicrmw add ptr %done, i64 1 acq_rel
  br label %take

wait.begin:
  br label %wait
wait:
  %turns = phi i64 [ 0, %wait.begin ], [ %turns.next, %wait.pause ], [ 0, %wait.yield ]
  %complete = load atomic i64, ptr %done acquire, align 8
  %all = icmp sge i64 %complete, %limit
  br i1 %all, label %phase.done, label %wait.more
wait.more:
  %turns.next = add i64 %turns, 1
  %patient = icmp slt i64 %turns, 2000
  br i1 %patient, label %wait.pause, label %wait.yield
wait.pause:
  {pause}
  br label %wait
wait.yield:
  %yielded = call i32 @sched_yield()
  br label %wait
phase.done:
  %i.next = add i64 %i, 1
  br label %phase.head
exit:
  ret void
}

; The caller's thread: publish the table, wake sleepers, take part, return when all is done.
define void @replay(ptr %control, ptr %table) {
entry:
  %epoch = load i64, ptr %table
  %epoch.next = add i64 %epoch, 1
  store atomic i64 %epoch.next, ptr %table release, align 8
  %table.p = getelementptr i8, ptr %control, i64 64
  store atomic ptr %table, ptr %table.p release, align 8
  %generation = atomicrmw add ptr %control, i64 1 seq_cst
  %sleepers.p = getelementptr i8, ptr %control, i64 192
  %sleepers = load atomic i64, ptr %sleepers.p seq_cst, align 8
  %asleep = icmp sgt i64 %sleepers, 0
  br i1 %asleep, label %wake, label %go
wake:
  call void @wake_all(ptr %control)
  br label %go
go:
  call void @run(ptr %table, i64 %epoch)
  ret void
}

define internal void @wake_all(ptr %control) {
  %mutex = getelementptr i8, ptr %control, i64 256
  %condition = getelementptr i8, ptr %control, i64 384
  %1 = call i32 @pthread_mutex_lock(ptr %mutex)
  %2 = call i32 @pthread_cond_broadcast(ptr %condition)
  %3 = call i32 @pthread_mutex_unlock(ptr %mutex)
  ret void
}

; Return when no worker can still be reading a table: none is published, and nobody is at work.
define void @retire(ptr %control, ptr %table) {
entry:
  %table.p = getelementptr i8, ptr %control, i64 64
  %active.p = getelementptr i8, ptr %control, i64 128
  %swap = cmpxchg ptr %table.p, ptr %table, ptr null seq_cst seq_cst
  br label %check
check:
  %active = load atomic i64, ptr %active.p seq_cst, align 8
  %quiet = icmp eq i64 %active, 0
  br i1 %quiet, label %done, label %wait
wait:
  %yielded = call i32 @sched_yield()
  br label %check
done:
  ret void
}

; Send every worker home.
define void @stop(ptr %control) {
  %stop.p = getelementptr i8, ptr %control, i64 200
  store atomic i64 1, ptr %stop.p seq_cst, align 8
  %generation = atomicrmw add ptr %control, i64 1 seq_cst
  call void @wake_all(ptr %control)
  ret void
}

; A worker: wait for a new generation (spin a little, then sleep), walk its table, again.
define void @worker(ptr %control) {
entry:
  %table.p = getelementptr i8, ptr %control, i64 64
  %active.p = getelementptr i8, ptr %control, i64 128
  %sleepers.p = getelementptr i8, ptr %control, i64 192
  %stop.p = getelementptr i8, ptr %control, i64 200
  %mutex = getelementptr i8, ptr %control, i64 256
  %condition = getelementptr i8, ptr %control, i64 384
  br label %idle

idle:
  %seen = phi i64 [ 0, %entry ], [ %generation, %again ]
  br label %spin
spin:
  %turns = phi i64 [ 0, %idle ], [ %turns.next, %spin.next ]
  %now = load atomic i64, ptr %control acquire, align 8
  %fresh = icmp ne i64 %now, %seen
  br i1 %fresh, label %begin, label %spin.more
spin.more:
  %turns.next = add i64 %turns, 1
  %patient = icmp slt i64 %turns, {spin_turns}
  br i1 %patient, label %spin.pause, label %sleep
spin.pause:
  {pause}
  %odd = and i64 %turns, 1023
  %due = icmp eq i64 %odd, 1023
  br i1 %due, label %spin.yield, label %spin.next
spin.yield:
  %yielded = call i32 @sched_yield()
  br label %spin.next
spin.next:
  br label %spin

sleep:
  %locked = call i32 @pthread_mutex_lock(ptr %mutex)
  %up = atomicrmw add ptr %sleepers.p, i64 1 seq_cst
  br label %sleep.check
sleep.check:
  %now.asleep = load atomic i64, ptr %control seq_cst, align 8
  %still = icmp eq i64 %now.asleep, %seen
  br i1 %still, label %sleep.wait, label %sleep.end
sleep.wait:
  %waited = call i32 @pthread_cond_wait(ptr %condition, ptr %mutex)
  br label %sleep.check
sleep.end:
  %down = atomicrmw sub ptr %sleepers.p, i64 1 seq_cst
  %unlocked = call i32 @pthread_mutex_unlock(ptr %mutex)
  br label %begin

begin:
  %entered = atomicrmw add ptr %active.p, i64 1 seq_cst
  %generation = load atomic i64, ptr %control acquire, align 8
  %stop = load atomic i64, ptr %stop.p acquire, align 8
  %stopping = icmp ne i64 %stop, 0
  br i1 %stopping, label %leave, label %walk
walk:
  %table = load atomic ptr, ptr %table.p seq_cst, align 8
  %none = icmp eq ptr %table, null
  br i1 %none, label %again, label %walk.table
walk.table:
  %epoch.next = load atomic i64, ptr %table acquire, align 8
  %epoch = sub i64 %epoch.next, 1
  call void @run(ptr %table, i64 %epoch)
  br label %again
again:
  %left = atomicrmw sub ptr %active.p, i64 1 seq_cst
  br label %idle
leave:
  %last = atomicrmw sub ptr %active.p, i64 1 seq_cst
  ret void
}
