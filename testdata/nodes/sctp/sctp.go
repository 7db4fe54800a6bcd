// SPDX-License-Identifier: Apache-2.0

// Package sctp stands in for the module of its name where the kernel has no SCTP. It does over raw sockets as
// much of RFC 9260 as agnhost needs: open an association, send a message each way. Its names are that module's.
package sctp

import (
	"encoding/binary"
	"hash/crc32"
	"math/rand"
	"net"
	"os"
	"strconv"
	"sync"
	"time"
)

// The types of chunks, RFC 9260 section 3.2.
const (
	chunkData       = 0
	chunkInit       = 1
	chunkInitAck    = 2
	chunkCookieEcho = 10
	chunkCookieAck  = 11
)

const (
	// The common header of ports, verification tag and checksum, and the header of a chunk.
	commonHeader, chunkHeader = 12, 4
	// What DATA has before its payload: sequence numbers and the payload's protocol.
	dataHeader = 12
	// The fixed part of INIT and of INIT ACK.
	initLength = 16
	// A chunk that is a whole message: its beginning and its end.
	wholeMessage = 3

	initInterval = 500 * time.Millisecond
	initAttempts = 60
)

var checksums = crc32.MakeTable(crc32.Castagnoli)

// SCTPAddr is where an association begins or ends.
type SCTPAddr struct {
	IPAddrs []net.IPAddr
	Port    int
}

// Network is always "sctp".
func (a *SCTPAddr) Network() string { return "sctp" }

// String is the first address and the port.
func (a *SCTPAddr) String() string {
	host := ""
	if len(a.IPAddrs) > 0 {
		host = a.IPAddrs[0].String()
	}
	return net.JoinHostPort(host, strconv.Itoa(a.Port))
}

// ResolveSCTPAddr reads "host:port".
func ResolveSCTPAddr(_, address string) (*SCTPAddr, error) {
	resolved, err := net.ResolveUDPAddr("udp", address)
	if err != nil {
		return nil, err
	}
	result := &SCTPAddr{Port: resolved.Port}
	if resolved.IP != nil {
		result.IPAddrs = []net.IPAddr{{IP: resolved.IP, Zone: resolved.Zone}}
	}
	return result, nil
}

// packet is one chunk in one packet.
func packet(source, destination int, tag uint32, chunk byte, body []byte) []byte {
	length := chunkHeader + len(body)
	// Chunks are padded to four bytes, which their length does not count.
	bytes := make([]byte, commonHeader+(length+3)&^3)
	binary.BigEndian.PutUint16(bytes[0:], uint16(source))
	binary.BigEndian.PutUint16(bytes[2:], uint16(destination))
	binary.BigEndian.PutUint32(bytes[4:], tag)
	bytes[commonHeader] = chunk
	if chunk == chunkData {
		bytes[commonHeader+1] = wholeMessage
	}
	binary.BigEndian.PutUint16(bytes[commonHeader+2:], uint16(length))
	copy(bytes[commonHeader+chunkHeader:], body)
	binary.LittleEndian.PutUint32(bytes[8:], crc32.Checksum(bytes, checksums))
	return bytes
}

// initBody asks for one stream each way, with a random verification tag.
func initBody() []byte {
	body := make([]byte, initLength)
	binary.BigEndian.PutUint32(body[0:], rand.Uint32())
	binary.BigEndian.PutUint32(body[4:], 65535)
	binary.BigEndian.PutUint16(body[8:], 1)
	binary.BigEndian.PutUint16(body[10:], 1)
	binary.BigEndian.PutUint32(body[12:], 1)
	return body
}

// socket is a raw socket that one local port is read from, and the associations of that port.
type socket struct {
	raw  *net.IPConn
	port int
	// Nil if nobody listens.
	accepted chan *SCTPConn
	mutex    sync.Mutex
	// By the address and port of the peer.
	conns map[string]*SCTPConn
}

func open(network string, port int, accepted chan *SCTPConn) (*socket, error) {
	raw, err := net.ListenIP(network, nil)
	if err != nil {
		return nil, err
	}
	return &socket{raw: raw, port: port, accepted: accepted, conns: map[string]*SCTPConn{}}, nil
}

// add is the association with this peer, in the place of an older one.
func (s *socket) add(peer net.IPAddr, port int) *SCTPConn {
	conn := &SCTPConn{socket: s, peer: peer, port: port, up: make(chan struct{}), messages: make(chan []byte, 16)}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.conns[conn.key()] = conn
	return conn
}

func (s *socket) find(peer *net.IPAddr, port int) *SCTPConn {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.conns[net.JoinHostPort(peer.String(), strconv.Itoa(port))]
}

// read answers what arrives until the socket is closed.
func (s *socket) read() {
	buffer := make([]byte, 65536)
	for {
		length, peer, err := s.raw.ReadFromIP(buffer)
		if err != nil {
			return
		}
		bytes := buffer[:length]
		if length < commonHeader+chunkHeader || int(binary.BigEndian.Uint16(bytes[2:])) != s.port {
			continue
		}
		end := commonHeader + int(binary.BigEndian.Uint16(bytes[commonHeader+2:]))
		if end < commonHeader+chunkHeader || end > length {
			continue
		}
		port := int(binary.BigEndian.Uint16(bytes))
		s.handle(peer, port, bytes[commonHeader], bytes[commonHeader+chunkHeader:end])
	}
}

func (s *socket) handle(peer *net.IPAddr, port int, chunk byte, body []byte) {
	if chunk == chunkInit && s.accepted != nil && len(body) >= initLength {
		conn := s.add(*peer, port)
		conn.tag = binary.BigEndian.Uint32(body)
		conn.send(chunkInitAck, initBody())
		return
	}
	conn := s.find(peer, port)
	if conn == nil {
		return
	}
	switch chunk {
	case chunkInitAck:
		if len(body) >= initLength {
			conn.tag = binary.BigEndian.Uint32(body)
			conn.send(chunkCookieEcho, []byte("cookie!!"))
		}
	case chunkCookieEcho:
		conn.send(chunkCookieAck, nil)
		if s.accepted != nil {
			conn.opened.Do(func() { close(conn.up); s.accepted <- conn })
		}
	case chunkCookieAck:
		conn.opened.Do(func() { close(conn.up) })
	case chunkData:
		if len(body) > dataHeader {
			select {
			case conn.messages <- append([]byte(nil), body[dataHeader:]...):
			default:
			}
		}
	}
}

// SCTPListener waits for associations with a port.
type SCTPListener struct{ socket *socket }

// ListenSCTP listens to the port on all IPv4 addresses.
func ListenSCTP(_ string, address *SCTPAddr) (*SCTPListener, error) {
	opened, err := open("ip4:132", address.Port, make(chan *SCTPConn, 64))
	if err != nil {
		return nil, err
	}
	go opened.read()
	return &SCTPListener{opened}, nil
}

// AcceptSCTP waits for the next association.
func (l *SCTPListener) AcceptSCTP() (*SCTPConn, error) { return <-l.socket.accepted, nil }

// Close stops listening.
func (l *SCTPListener) Close() error { return l.socket.raw.Close() }

// SCTPConn is an association.
type SCTPConn struct {
	socket   *socket
	peer     net.IPAddr
	port     int
	tag      uint32
	opened   sync.Once
	up       chan struct{}
	messages chan []byte
	deadline time.Time
}

// DialSCTP opens an association, and asks for it again until it is answered.
func DialSCTP(_ string, _ *SCTPAddr, address *SCTPAddr) (*SCTPConn, error) {
	peer, network := address.IPAddrs[0], "ip4:132"
	if peer.IP.To4() == nil {
		network = "ip6:132"
	}
	opened, err := open(network, 32768+rand.Intn(28000), nil)
	if err != nil {
		return nil, err
	}
	conn := opened.add(peer, address.Port)
	go opened.read()
	for range initAttempts {
		if err := conn.send(chunkInit, initBody()); err != nil {
			opened.raw.Close()
			return nil, err
		}
		select {
		case <-conn.up:
			return conn, nil
		case <-time.After(initInterval):
		}
	}
	opened.raw.Close()
	return nil, os.ErrDeadlineExceeded
}

func (c *SCTPConn) key() string { return net.JoinHostPort(c.peer.String(), strconv.Itoa(c.port)) }

func (c *SCTPConn) send(chunk byte, body []byte) error {
	_, err := c.socket.raw.WriteToIP(packet(c.socket.port, c.port, c.tag, chunk, body), &c.peer)
	return err
}

// Write sends one message.
func (c *SCTPConn) Write(message []byte) (int, error) {
	if err := c.send(chunkData, append(make([]byte, dataHeader), message...)); err != nil {
		return 0, err
	}
	return len(message), nil
}

// Read waits for one message, by default without an end.
func (c *SCTPConn) Read(buffer []byte) (int, error) {
	var timeout <-chan time.Time
	if !c.deadline.IsZero() {
		timeout = time.After(time.Until(c.deadline))
	}
	select {
	case message := <-c.messages:
		return copy(buffer, message), nil
	case <-timeout:
		return 0, os.ErrDeadlineExceeded
	}
}

// SetReadDeadline ends calls of Read that begin after this one.
func (c *SCTPConn) SetReadDeadline(deadline time.Time) error {
	c.deadline = deadline
	return nil
}

// SCTPRemoteAddr is the peer.
func (c *SCTPConn) SCTPRemoteAddr(int) (*SCTPAddr, error) {
	return &SCTPAddr{IPAddrs: []net.IPAddr{c.peer}, Port: c.port}, nil
}

// Close forgets the association; the peer is not told.
func (c *SCTPConn) Close() error {
	if c.socket.accepted == nil {
		return c.socket.raw.Close()
	}
	c.socket.mutex.Lock()
	defer c.socket.mutex.Unlock()
	if c.socket.conns[c.key()] == c {
		delete(c.socket.conns, c.key())
	}
	return nil
}
