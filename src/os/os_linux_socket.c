#include "os/linux_call.h"
#include "os/os.h"

#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

/* Nobody waits longer for a keeper that is stuck, nor a keeper for a client. */
enum { SOCKET_WAIT_S = 2, BACKLOG = 128 };

static int make_address(const char *name, struct sockaddr_un *address_out, socklen_t *bytes_out)
{
	const size_t length = strlen(name);

	if (length > sizeof address_out->sun_path - 1)
		return -ENAMETOOLONG;
	memset(address_out, 0, sizeof *address_out);
	address_out->sun_family = AF_UNIX;
	memcpy(address_out->sun_path + 1, name, length); /* sun_path[0] is NUL: abstract */
	*bytes_out = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + length);
	return 0;
}

static long set_timeouts(int fd)
{
	const struct timeval wait = {.tv_sec = SOCKET_WAIT_S};
	long result = OS_CALL(SYS_setsockopt, fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait);

	if (result == 0)
		result = OS_CALL(SYS_setsockopt, fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
	return result;
}

int os_socket_listen(const char *abstract_name, int *fd_out)
{
	struct sockaddr_un address;
	socklen_t bytes;
	long result = make_address(abstract_name, &address, &bytes);
	long fd;

	if (result)
		return (int)result;
	fd = OS_CALL(SYS_socket, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return (int)fd;
	result = OS_CALL(SYS_bind, (int)fd, &address, bytes);
	if (result == 0)
		result = OS_CALL(SYS_listen, (int)fd, BACKLOG);
	if (result < 0) {
		os_fd_close((int)fd);
		return (int)result;
	}
	*fd_out = (int)fd;
	return 0;
}

int os_socket_connect(const char *abstract_name, int *fd_out)
{
	struct sockaddr_un address;
	socklen_t bytes;
	long result = make_address(abstract_name, &address, &bytes);
	long fd;

	if (result)
		return (int)result;
	fd = OS_CALL(SYS_socket, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return (int)fd;
	result = set_timeouts((int)fd);
	if (result == 0)
		result = OS_CALL(SYS_connect, (int)fd, &address, bytes);
	if (result < 0) {
		os_fd_close((int)fd);
		return result == -EAGAIN ? -ETIMEDOUT : (int)result;
	}
	*fd_out = (int)fd;
	return 0;
}

int os_socket_accept(int listener, int *fd_out, uid_t *peer_uid_out, pid_t *peer_pid_out)
{
	struct ucred peer = {0};
	socklen_t bytes = sizeof peer;
	const long fd = OS_CALL(SYS_accept4, listener, NULL, NULL, SOCK_CLOEXEC);
	long result;

	if (fd < 0)
		return (int)fd;
	result = OS_CALL(SYS_getsockopt, (int)fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes);
	if (result == 0)
		result = set_timeouts((int)fd);
	if (result < 0) {
		os_fd_close((int)fd);
		return (int)result;
	}
	*fd_out = (int)fd;
	*peer_uid_out = peer.uid;
	*peer_pid_out = peer.pid;
	return 0;
}

/* Room for one descriptor, aligned as the kernel wants it. */
union control {
	struct cmsghdr header;
	char bytes[CMSG_SPACE(sizeof(int))];
};

ssize_t os_socket_send(int fd, const void *data, size_t bytes, int pass_fd)
{
	struct iovec part = {.iov_base = (void *)(uintptr_t)data, .iov_len = bytes};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
	union control control = {0};

	if (pass_fd >= 0) {
		message.msg_control = &control;
		message.msg_controllen = sizeof control;
		control.header.cmsg_level = SOL_SOCKET;
		control.header.cmsg_type = SCM_RIGHTS;
		control.header.cmsg_len = CMSG_LEN(sizeof pass_fd);
		memcpy(CMSG_DATA(&control.header), &pass_fd, sizeof pass_fd);
	}
	return OS_CALL(SYS_sendmsg, fd, &message, MSG_NOSIGNAL);
}

/* The first descriptor that came along, or -1. Alignment leaves room for a second: close it. */
static int take_passed(struct msghdr *message)
{
	int first = -1;

	for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header; header = CMSG_NXTHDR(message, header)) {
		if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t at = 0; CMSG_LEN(at + sizeof(int)) <= header->cmsg_len; at += sizeof(int)) {
			int fd;

			memcpy(&fd, CMSG_DATA(header) + at, sizeof fd);
			if (first < 0)
				first = fd;
			else
				os_fd_close(fd);
		}
	}
	return first;
}

ssize_t os_socket_receive(int fd, void *data, size_t bytes, int *passed_fd_out)
{
	struct iovec part = {.iov_base = data, .iov_len = bytes};
	union control control;
	struct msghdr message = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
	ssize_t result = OS_CALL(SYS_recvmsg, fd, &message, MSG_CMSG_CLOEXEC);
	int passed;

	if (passed_fd_out)
		*passed_fd_out = -1;
	if (result < 0)
		return result;
	passed = take_passed(&message);
	if (message.msg_flags & MSG_TRUNC)
		result = -EMSGSIZE;
	if (passed >= 0 && (!passed_fd_out || result < 0))
		os_fd_close(passed);
	else if (passed_fd_out)
		*passed_fd_out = passed;
	return result;
}
