// In the place of the module that opens SCTP sockets of the kernel; see ../without-sctp.work.
module github.com/ishidawataru/sctp

go 1.26.0
