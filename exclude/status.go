package exclude

import "fmt"

// NTStatus is an NTSTATUS value (ntstatus.h): how the kernel names what is
// wrong with a request.
type NTStatus uint32

// The statuses of requests.
const (
	StatusSuccess               NTStatus = 0x00000000
	StatusInvalidParameter      NTStatus = 0xc000000d // neither virtual nor physical, or both
	StatusAccessDenied          NTStatus = 0xc0000022 // touches a protected page
	StatusQuotaExceeded         NTStatus = 0xc0000044 // above MaxRequests or MaxRequestsBy
	StatusInsufficientResources NTStatus = 0xc000009a // costs more than snap grants
	StatusInvalidParameter4     NTStatus = 0xc00000f2 // an unknown flag
	StatusInvalidAddress        NTStatus = 0xc0000141 // leaves RAM or the address space
	StatusDataError             NTStatus = 0xc000003e // the page tables can't be read
)

func (s NTStatus) String() string {
	switch s {
	case StatusSuccess:
		return "STATUS_SUCCESS"
	case StatusInvalidParameter:
		return "STATUS_INVALID_PARAMETER"
	case StatusAccessDenied:
		return "STATUS_ACCESS_DENIED"
	case StatusDataError:
		return "STATUS_DATA_ERROR"
	case StatusQuotaExceeded:
		return "STATUS_QUOTA_EXCEEDED"
	case StatusInsufficientResources:
		return "STATUS_INSUFFICIENT_RESOURCES"
	case StatusInvalidParameter4:
		return "STATUS_INVALID_PARAMETER_4"
	case StatusInvalidAddress:
		return "STATUS_INVALID_ADDRESS"
	default:
		return fmt.Sprintf("NTSTATUS %#08x", uint32(s))
	}
}
