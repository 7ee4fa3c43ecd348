# Sets FXPASS_ATEN_STUBS to the definitions under which ATen/native/DispatchStub.h declares what
# torch's library exports, or to nothing where none of the known ones does.
function(fxpass_links_with_pointers count result)
  string(REPEAT ", void*" ${count} pointers)
  get_target_property(library torch_cpu LOCATION)
  set(CMAKE_REQUIRED_LIBRARIES "${library}")
  set(CMAKE_REQUIRED_LINK_OPTIONS -Wl,--allow-shlib-undefined)
  include(CheckCXXSourceCompiles)
  check_cxx_source_compiles("
    namespace c10 { enum class DeviceType : signed char; }
    namespace at::native {
    struct DispatchStubImpl { void* get_call_ptr(c10::DeviceType${pointers}); };
    }
    int main() {
      at::native::DispatchStubImpl stub;
      return stub.get_call_ptr(c10::DeviceType{}${nulls_${count}}) == nullptr;
    }" ${result})
  set(${result} ${${result}} PARENT_SCOPE)
endfunction()

set(nulls_1 ", nullptr")
set(nulls_3 ", nullptr, nullptr, nullptr")
set(FXPASS_ATEN_STUBS "")
fxpass_links_with_pointers(3 FXPASS_STUBS_OF_THREE)
if(FXPASS_STUBS_OF_THREE AND CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  set(FXPASS_ATEN_STUBS FXPASS_ATEN_STUBS HAVE_AVX512_CPU_DEFINITION HAVE_AVX2_CPU_DEFINITION)
elseif(FXPASS_STUBS_OF_THREE AND CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64")
  set(FXPASS_ATEN_STUBS FXPASS_ATEN_STUBS HAVE_SVE_CPU_DEFINITION)
else()
  fxpass_links_with_pointers(1 FXPASS_STUBS_OF_ONE)
  if(FXPASS_STUBS_OF_ONE)
    set(FXPASS_ATEN_STUBS FXPASS_ATEN_STUBS)
  endif()
endif()
message(STATUS "ATen's kernels behind its operators: ${FXPASS_ATEN_STUBS}")
