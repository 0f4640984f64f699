// What a PyTorch built without CUDA lacks to take fake CUDA tensors through autograd: a device guard and hooks, both of
// which do nothing. Loaded before `import torch`: the hooks are looked up once.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace {

constexpr auto TYPE = c10::DeviceType::CUDA;
const c10::Device DEVICE(TYPE, 0);

struct Guard final : c10::impl::NoOpDeviceGuardImpl<TYPE> {
  c10::Device getDevice() const override { return DEVICE; }
  c10::Stream getStream(c10::Device) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, DEVICE); }
  c10::Stream exchangeStream(c10::Stream stream) const noexcept override { return stream; }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
};

// Random numbers are never drawn: fake tensors have no values.
struct Generator : at::CPUGeneratorImpl {
  Generator() : at::CPUGeneratorImpl(0) { device_ = DEVICE; }
};

// The class must have this name: it is looked up by it.
struct CUDAHooks : at::CUDAHooksInterface {
  explicit CUDAHooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  int getNumGPUs() const override { return 1; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  at::Generator getNewGenerator(c10::DeviceIndex = -1) const override { return at::make_generator<Generator>(); }
};

using at::CUDAHooksRegistry;
using at::RegistererCUDAHooksRegistry;
REGISTER_CUDA_HOOKS(CUDAHooks)

struct Registration {
  Registration() {
    static Guard guard;
    c10::impl::device_guard_impl_registry[static_cast<size_t>(TYPE)].store(&guard);
  }
} registration;

}  // namespace
